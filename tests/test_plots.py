"""Figures of fake models that answer the documented methods."""

from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from sklearn.manifold import TSNE

from gibbsnet import files, plots
from gibbsnet.data import load, units
from gibbsnet.noise import Noise


class Fake:
    """A linear model: latents are projections of x on its principal axes, and a chain walks away from its start."""

    def __init__(self, data, latents, N=2):
        self.latents, self.N, self.shape = list(latents), N, data.shape
        x = units(data.train.x, data.levels).flatten(1)
        self.mean = x.mean(0)
        _, scales, axes = torch.pca_lowrank(x - self.mean, q=max(latents.values()), niter=4)
        self.axes = {z: axes[:, :d] for z, d in latents.items()}
        self.scales = {z: scales[:d] / len(x) ** 0.5 for z, d in latents.items()}

    def trajectory(self, batch, seed, given=None, seen=None):
        """A slow rotation of z."""
        z = {name: Noise(seed, name).normal((batch, len(s))) for name, s in self.scales.items()}
        for i in count():
            state = {name: np.cos(0.02 * i) * v + np.sin(0.02 * i) * v.roll(1, 0) for name, v in z.items()}
            yield {**state, "x": self.decode(state, seed)}

    def infer(self, given, seed):
        state = {z: self.posterior_mean(given, z, seed) for z in self.latents}
        return {**given, **{z: v + 0.05 * Noise(seed, "q").normal(v.shape) for z, v in state.items()}}

    def posterior_mean(self, given, latent, seed):
        return (given["x"].flatten(1) - self.mean) @ self.axes[latent] / self.scales[latent]

    def reconstruct(self, state, latent, seed):
        x = (state[latent] * self.scales[latent]) @ self.axes[latent].T + self.mean
        x = x.unflatten(1, self.shape)
        return x + 0.02 * Noise(seed, "p").normal(x.shape)

    def decode(self, state, seed):
        return self.reconstruct(state, self.latents[0], seed)


class Judge(torch.nn.Module):
    """The class whose mean image is nearest."""

    def __init__(self, data):
        super().__init__()
        x = units(data.train.x, data.levels).flatten(1)
        self.centres = torch.nn.Parameter(torch.stack([x[data.train.y == k].mean(0) for k in range(data.classes)]))

    def forward(self, x):
        return -torch.cdist(x.flatten(1), self.centres)


@pytest.fixture(scope="module")
def digits():
    data = load("digits")
    return Fake(data, {"z1": 24, "z2": 6}), data, Judge(data)


@pytest.fixture(scope="module")
def digit_figures(digits):
    with pytest.MonkeyPatch.context() as patch:  # t-SNE takes seconds; a test of its own runs it
        patch.setattr(plots, "embed", lambda values, seed: values[:, :2])
        return dict(plots.figures(*digits, seed=3))


@pytest.fixture(scope="module")
def ring_figures():
    data = load("ring")
    return dict(plots.figures(Fake(data, {"z": 2}), data, None, seed=3))


def pixels(figure):
    """The figure as bytes (height, width, 3)."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def texts(figure):
    """Everything that is written on the figure."""
    return [text.get_text() for text in figure.findobj(Text)]


def test_every_documented_figure_is_drawn(digit_figures, ring_figures):
    common = ["samples", "chain", "tsne_x", "tsne_z"]
    two = ["latent_z1", "latent_z2", "interpolations", "reconstructions_z1", "reconstructions_z2"]
    assert list(digit_figures) == common + two
    assert list(ring_figures) == [*common, "latent_z", "interpolations", "reconstructions_z"]


def test_the_quick_subset_never_walks_beyond_ten_steps(digits):
    _, data, judge = digits
    walked = []

    class Watched(Fake):
        def trajectory(self, batch, seed, given=None, seen=None):
            for i, state in enumerate(Fake.trajectory(self, batch, seed)):
                walked.append(i)
                yield state

    names = [name for name, _ in plots.figures(Watched(data, {"z": 3}), data, judge, 3, quick=True)]
    assert names == ["samples", "chain", "latent_z", "reconstructions_z"]
    assert max(walked) == 10


def test_quick_figures_never_show_the_test_split(digits):
    _, data, judge = digits
    seen = []

    class Watched(Fake):
        def infer(self, given, seed):
            seen.append(given["x"])
            return Fake.infer(self, given, seed)

    list(plots.figures(Watched(data, {"z": 3}), data, judge, 3, quick=True))
    for split, shown in ((data.validation, True), (data.test, False)):
        distance = torch.cdist(seen[0].flatten(1), units(split.x, data.levels).flatten(1)).amin(1)
        assert bool((distance < 0.01).all()) is shown


def test_an_image_lands_on_the_page_pixel_for_pixel():
    x = torch.linspace(-1, 1, 2 * 3 * 3 * 4 * 4).reshape(2, 3, 3, 4, 4)
    page = pixels(plots.image_grid(x, zoom=40))
    tile = ((x[1, 2] + 1) * 127.5).round().byte().movedim(0, -1).numpy()
    for row in range(4):
        for column in range(4):
            there = page[2 + 162 + 40 * row + 20, 2 + 2 * 162 + 40 * column + 20]
            assert (there == tile[row, column]).all()


def test_a_long_title_is_broken_and_moves_no_image():
    x = torch.linspace(-1, 1, 64).reshape(1, 1, 1, 8, 8)
    title = "x: top missing; held whole: z1, z2; y = 3; a = [None, None, 1]; right: more fills of each"
    short, long = (plots.image_grid(x, text, columns=["real"]) for text in ("x: top missing", title))
    (written,) = (text for text in long.texts if "missing" in text.get_text())
    assert written.get_text().replace("\n", " ") == title
    for figure in (short, long):
        edges = [text.get_window_extent() for text in figure.texts]
        assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y1 <= figure.bbox.height for box in edges)
        assert not edges[0].overlaps(edges[1])
    images = [pixels(figure)[-60:] for figure in (short, long)]
    assert (images[0] == images[1]).all() and len(pixels(long)) > len(pixels(short))


def test_gray_is_clipped_and_rows_alternate():
    real, again = torch.full((10, 1, 8, 8), -5.0), torch.full((10, 1, 8, 8), 5.0)
    page = pixels(plots.reconstructions(real, again, real))
    column = page[:, 26 + 28]
    assert (column[2 + 28] == 0).all() and (column[2 + 58 + 28] == 255).all()


def test_steps_are_labelled_in_order_and_say_which_is_N(digit_figures):
    labels = [text for text in texts(digit_figures["chain"]) if "=" in text]
    assert labels == ["i = 0", "i = 1", "N = 2", "i = 3", "i = 10", "i = 100", "i = 1000"]


def test_limits_come_from_data_not_from_samples():
    data = Noise(0, "limits").uniform((50, 2))
    near, far = (plots.samples(scale * torch.randn(20, 2), data).axes[0] for scale in (0.1, 100))
    assert near.get_xlim() == far.get_xlim() and near.get_ylim() == far.get_ylim()
    assert -0.3 < near.get_xlim()[0] < 0 and 1 < near.get_xlim()[1] < 1.3


def test_limits_of_a_latent_come_from_the_prior_and_outsiders_stay_visible():
    prior, means = torch.randn(200, 5), 50 * torch.randn(100, 5)
    axes = plots.latent_plane(means, prior, None).axes[0]
    (low, high), drawn = axes.get_xlim(), axes.collections[1].get_offsets()
    assert -6 < low < -1 and 1 < high < 6
    assert drawn[:, 0].min() == pytest.approx(low) and drawn[:, 0].max() == pytest.approx(high)


def test_principal_components_do_not_flip_with_the_sign_of_the_data():
    points = np.random.default_rng(0).normal(size=(100, 6)) * np.arange(6, 0, -1)
    there, _ = plots._principal(points, points)
    back, _ = plots._principal(-points, -points)
    np.testing.assert_allclose(there, -back, atol=1e-6)


def test_classes_of_samples_and_data_share_their_colours(digits, ring_figures):
    red, blue = torch.tensor([3, 0]), torch.tensor([0, 0])
    figure = plots.embedding({0: torch.zeros(2, 2)}, torch.ones(2, 2), {0: red}, blue, N=0)
    real, walked = figure.axes[1].collections
    assert (real.get_edgecolor()[:, :3] == to_rgb(plots.PALETTE[0])).all()
    drawn = {tuple(color) for color in walked.get_facecolor()[:, :3]}
    assert drawn == {to_rgb(plots.PALETTE[0]), to_rgb(plots.PALETTE[3])}


def test_points_far_apart_stay_apart_in_the_embedding(monkeypatch):
    monkeypatch.setattr(plots, "TSNE", TSNE)  # in all its steps, as users have it
    clusters = np.repeat(20 * np.eye(3, 8), 40, 0) + np.random.default_rng(0).normal(size=(120, 8))
    plane = plots.embed(clusters, seed=0)
    centres = plane.reshape(3, 40, 2).mean(1)
    spread = plane.reshape(3, 40, 2).std(1).max()
    assert min(np.linalg.norm(centres[a] - centres[b]) for a, b in ((0, 1), (0, 2), (1, 2))) > 3 * spread
    assert (plots.embed(clusters, seed=0) == plane).all()


def test_interpolations_end_at_reconstructions_under_one_noise(digits):
    module, data, _ = digits
    real, _ = plots._real(data.test, data.levels, 3, 40)
    state = module.infer({"x": real}, 3)
    path, (first, last) = plots._between(module, {z: state[z] for z in module.latents}, real, 3)
    ends = [{z: state[z][rows] for z in module.latents} for rows in (slice(0, 8), slice(8, 16))]
    assert path.shape == (8, 9, 1, 8, 8)
    assert torch.allclose(path[:, 0], module.decode(ends[0], 3), atol=1e-5)
    assert torch.allclose(path[:, -1], module.decode(ends[1], 3), atol=1e-5)
    assert torch.equal(torch.cat([first, last]), real[:16])


def test_unlabelled_data_without_a_judge_are_drawn(digits, monkeypatch):
    monkeypatch.setattr(plots, "embed", lambda values, seed: values[:, :2])
    module, data, _ = digits
    data = replace(data, test=replace(data.test, y=None))
    drawn = dict(plots.figures(module, data, None, 3))
    assert not any(text == "7" for text in texts(drawn["tsne_x"]) + texts(drawn["latent_z1"]))


def test_equal_calls_write_equal_files_without_a_date(tmp_path, digits):
    for folder in ("a", "b"):
        for name, figure in plots.figures(*digits, seed=3, quick=True):
            plots.save(figure, tmp_path / folder / f"{name}.png")
    names = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert len(names) == 6 and all(name.endswith(".png") for name in names)
    for name in names:
        written = (tmp_path / "a" / name).read_bytes()
        assert written == (tmp_path / "b" / name).read_bytes()
        assert b"tEXt" not in written and b"tIME" not in written


def test_files_are_small(tmp_path, digit_figures, ring_figures):
    for name, figure in [*digit_figures.items(), *ring_figures.items()]:
        plots.save(figure, tmp_path / "figure.png")
        assert 1024 < (tmp_path / "figure.png").stat().st_size < plots.LIMIT, name


def test_colour_noise_still_makes_a_small_file(tmp_path):
    x = 2 * torch.rand(100, 3, 32, 32, generator=torch.Generator().manual_seed(0)) - 1
    plots.save(plots.samples(x, x), tmp_path / "samples.png")
    assert (tmp_path / "samples.png").stat().st_size < plots.LIMIT


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    plots.write(tmp_path / "f", b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        plots.write(tmp_path / "f", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["f"] and (tmp_path / "f").read_bytes() == b"old"


def sweep_trials(values, states=None, **params):
    states = states or ["complete"] * len(values)
    return [
        {"params": {key: words[k] for key, words in params.items()}, "value": value, "state": states[k]}
        for k, (value, _) in enumerate(zip(values, states, strict=True))
    ]


def test_parallel_coordinates_end_at_the_value_and_mark_the_best():
    trials = sweep_trials(
        [3.0, 1.0, 2.0], ["complete", "complete", "stopped"], **{"optim.lr": ["0.001", "0.01", "0.1"]}
    )
    for goal, best in (("minimize", 0.0), ("maximize", 1.0)):
        figure = plots.parallel(trials, ["optim.lr"], "val/distance", goal, {"optim.lr": True})
        lines = [
            line for line in figure.axes[0].lines if len(line.get_xdata()) == 2 and list(line.get_xdata()) == [0, 1]
        ]
        ends = {float(line.get_ydata()[0]): float(line.get_ydata()[1]) for line in lines}
        assert ends == pytest.approx({0.0: 1.0, 0.5: 0.0, 1.0: 0.5}), "logarithmic to the left, the value to the right"
        (red,) = [line for line in lines if line.get_color() == plots.PALETTE[3]]
        assert red.get_ydata()[1] == best
        assert [line.get_linestyle() for line in lines].count("--") == 1


def test_parallel_coordinates_order_words_by_their_numbers_and_keep_equal_ones_apart():
    places, ticks = plots._axis(["[16]", "[2]", "[8]", "[2]"], None)
    assert [word for _, word in ticks] == ["[2]", "[8]", "[16]"]
    assert places[1] != places[3] and max(places[1], places[3]) < places[2] < places[0]
    assert [word for _, word in plots._axis(["[0, 3]", "10", "3", "ali"], None)[1]] == ["ali", "3", "10", "[0, 3]"]
    assert plots._axis(["5", "5"], False)[0].tolist() == [0.0, 0.0]
