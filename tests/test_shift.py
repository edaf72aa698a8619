"""What the critics read of images, moved by some pixels: `game.shift`."""

from itertools import product

import pytest
import torch

from gibbsnet.__main__ import main
from gibbsnet.game import Game, moved
from gibbsnet.noise import Noise
from tests.models import module, normal

B = 8


def by_hand(x, down, right):
    """An image (C, H, W) moved, black coming in."""
    out = torch.full_like(x, -1)
    for r, c in product(range(x.shape[1]), range(x.shape[2])):
        if 0 <= r - down < x.shape[1] and 0 <= c - right < x.shape[2]:
            out[:, r, c] = x[:, r - down, c - right]
    return out


@pytest.mark.parametrize("most", [1, 2])
def test_every_move_is_drawn_as_often_as_it_should_be(most):
    n, x = 40000, normal(2, 3, 4)
    found = moved(x.expand(n, 2, 3, 4), Noise(0).uniform((n, 3)), most)
    steps, rest = range(-most, most + 1), n
    p = 0.5 / len(steps) ** 2
    for down, right in product(steps, steps):
        share = (found == by_hand(x, down, right)).flatten(1).all(1).double().mean()
        expected = p + 0.5 * (down == right == 0)
        assert abs(share - expected) < 5 * (expected * (1 - expected) / n) ** 0.5
        rest -= round(float(share) * n)
    assert rest == 0, "nothing else is ever drawn"


def test_each_image_has_its_own_move_and_channels_move_together():
    x = normal(B, 3, 8, 8)
    found = moved(x, Noise(1).uniform((B, 3)), 2)
    moves = [
        [m for m in product(range(-2, 3), repeat=2) if torch.equal(y, by_hand(image, *m))]
        for image, y in zip(x, found, strict=True)
    ]
    assert all(len(m) == 1 for m in moves) and len({m[0] for m in moves}) > 2


def test_the_gradient_goes_back_to_where_the_pixels_came_from():
    x, draws = normal(B, 1, 4, 5).requires_grad_(), Noise(2).uniform((B, 3))
    assert torch.autograd.gradcheck(lambda x: moved(x, draws, 1), x)


@pytest.mark.parametrize("shape, most", [((1, 3), 1), ((2, 2), 1), ((1, 4), 2), ((1, 4), 3)])
def test_no_two_laws_of_images_look_alike_when_they_are_moved(shape, most):
    """The operator on laws of all black and white images of a size, frame or none: |K m| >= (a - b) |m| in total variation."""
    images = [torch.tensor(bits).double().view(1, *shape) for bits in product([-1, 1], repeat=shape[0] * shape[1])]
    place = {tuple(image.flatten().tolist()): k for k, image in enumerate(images)}
    steps = range(-most, most + 1)
    stays = 0.5 + 0.5 / len(steps) ** 2
    kernel = torch.zeros(len(images), len(images), dtype=torch.float64)
    for k, image in enumerate(images):
        kernel[k, k] += 0.5
        for move in product(steps, steps):
            kernel[place[tuple(by_hand(image, *move).flatten().tolist())], k] += 0.5 / len(steps) ** 2
    inverse = torch.linalg.inv(kernel)  # the greatest sum of a column is its norm in total variation
    assert inverse.abs().sum(0).max() <= 1 / (2 * stays - 1) + 1e-9
    drawn = moved(images[1].expand(40000, 1, *shape), Noise(0).uniform((40000, 3)), most)
    share = torch.stack([(drawn == image).flatten(1).all(1).double().mean() for image in images])
    assert (share - kernel[:, 1]).abs().max() < 5 * (0.25 / 40000) ** 0.5


@pytest.mark.parametrize("model", ["ali", "gibbsnet", "gibbsnet_unary"])
def test_both_sides_are_moved_for_the_critics_and_for_nobody_else(model, monkeypatch):
    """The critics read both chains' x moved, each pair by its own draw; the terms beside the game, and what is kept, do not."""
    x, seen = normal(B, 1, 8, 8).clamp(-1, 1), {}
    play = Game.play

    def spied(self, critics, clamped, unclamped, *rest):
        seen[self.shift] = clamped, unclamped, rest[-1]
        return play(self, critics, clamped, unclamped, *rest)

    monkeypatch.setattr(Game, "play", spied)
    plain, shifted = (module(model, "digits", f"game.shift={k}", "game.cycle=1.0") for k in (0, 2))
    a, b = (m.play({"x": x}, Noise(5)) for m in (plain, shifted))
    sides = [
        (before["x"].detach(), after["x"].detach()) for before, after in zip(seen[0][:2], seen[2][:2], strict=True)
    ]
    moves = [
        [
            next(m for m in product(range(-2, 3), repeat=2) if torch.equal(by_hand(i, *m), j))
            for i, j in zip(*side, strict=True)
        ]
        for side in sides
    ]
    assert moves[0] != moves[1] and all(len(set(m)) > 1 for m in moves)
    assert torch.equal(sides[0][0], x) and all(torch.equal(seen[0][k]["z"], seen[2][k]["z"]) for k in (0, 1))
    assert torch.equal(seen[0][2]["cycle"], seen[2][2]["cycle"])
    assert not torch.equal(a.graph[0], b.graph[0]) and not torch.equal(a.critic[0], b.critic[0])
    kept = [m._game(m._inputs({"x": x}, Noise(5)), Noise(5), 0) for m in (plain, shifted)]
    for state in (0, 1):  # the clamped chain's end, whose moments are followed, and where persistent chains stand
        assert all(torch.equal(kept[0][state][v], kept[1][state][v]) for v in kept[0][state])


@pytest.mark.parametrize(
    "settings, words",
    [
        (["data=ring", "game.shift=1"], ["game.shift=1", "images"]),
        (["data=digits", "game.shift=8"], ["game.shift=8", "(1, 8, 8)"]),
        (["data=digits", "game.shift=-1"], ["game.shift=-1", "at least 0"]),
        (["data=digits", "game.shift=0.5"], ["game.shift", "an integer"]),
    ],
)
def test_moves_that_cannot_be_are_one_line_before_a_judge_is_trained(settings, words, tmp_path, capsys):
    run, judges = tmp_path / "run", tmp_path / "judges"
    assert main(["train", *settings, f"run={run}", f"judges={judges}", "tracking.mode=disabled"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert all(word in error for word in words), error
    assert not (run / "checkpoints").exists() and not judges.exists()
