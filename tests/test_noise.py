import pytest
import torch
from scipy import stats

from gibbsnet.noise import Noise, seed_of

DRAWS = [lambda noise, *shape, **o: noise.normal(shape, **o), lambda noise, *shape, **o: noise.uniform(shape, **o)]
draws = pytest.mark.parametrize("draw", DRAWS, ids=["normal", "uniform"])


def test_a_seed_is_a_function_of_its_key():
    assert seed_of(0, 17, "train") == 2859763741993770733  # runs of an older version can be repeated
    keys = [(), (0,), (1,), (0, 1), (1, 0), (0, "a"), (0, "b"), ("a", 0)]
    assert len({seed_of(*key) for key in keys}) == len(keys)
    assert all(0 <= seed_of(*key) < 2**63 for key in keys)


@draws
def test_noise_is_a_function_of_its_key(draw):
    a, b = Noise(3, "x"), Noise(3, "x")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = draw(a, 4, 2), draw(a, 4, 2)
    assert torch.equal(draw(b, 4, 2), first) and torch.equal(draw(b, 4, 2), second)
    assert not torch.equal(first, second)
    assert not torch.equal(draw(Noise(3, "y"), 4, 2), first)
    assert torch.equal(torch.get_rng_state(), before)


@draws
def test_a_part_s_noise_depends_on_its_name_alone(draw):
    noise = Noise(1)
    early = draw(noise.at("z", 3), 5)
    draw(noise, 7)
    assert torch.equal(draw(noise.at("z", 3), 5), early)
    assert torch.equal(draw(Noise(1, "z", 3), 5), early)
    assert not torch.equal(draw(noise.at("z", 4), 5), early)


@draws
@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("rest", [(), (3,), (2, 3, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ranks_share_the_noise_of_one_process(draw, ranks, rest, dtype):
    whole, parts = Noise(0, 1), [Noise(0, rank=r, ranks=ranks).at(1) for r in range(ranks)]
    for _ in range(2):
        expected = draw(whole, 4 * ranks, *rest, dtype=dtype)
        assert expected.dtype == dtype and expected.shape == (4 * ranks, *rest)
        assert torch.equal(torch.cat([draw(part, 4, *rest, dtype=dtype) for part in parts]), expected)


def test_a_choice_is_of_all_alike_and_the_same_on_every_rank():
    chosen = [Noise(k).choice(3) for k in range(3000)]
    assert stats.chisquare([chosen.count(c) for c in range(3)]).pvalue > 1e-4 and set(chosen) == {0, 1, 2}
    assert chosen[:9] == [Noise(k, rank=1, ranks=2).choice(3) for k in range(9)]
    assert chosen[:9] == [Noise(k).integer(0, 2**24 - 1) * 3 >> 24 for k in range(9)], (
        "as when docs/comparison.json was made"
    )


@draws
@pytest.mark.parametrize("rank, ranks", [(0, 1), (1, 2)])
def test_rows_have_the_draws_that_they_have_in_the_whole_batch(draw, rank, ranks):
    noise = Noise(0, rank=rank, ranks=ranks)
    whole = draw(noise.at("x"), 5, 2)
    for rows in (slice(0, 0), slice(0, 2), slice(2, 5)):
        assert torch.equal(draw(noise.among(rows, 5).at("x"), rows.stop - rows.start, 2), whole[rows])
    assert noise.among(slice(0, 2), 5).integer(0, 9) == Noise(0).integer(0, 9)


def test_integers_are_equal_on_all_ranks_and_reach_both_ends():
    values = [Noise(k).integer(1, 4) for k in range(100)]
    assert set(values) == {1, 2, 3, 4}
    assert values == [Noise(k, rank=1, ranks=3).integer(1, 4) for k in range(100)]


@draws
def test_laws(draw):
    law = stats.norm if draw is DRAWS[0] else stats.uniform
    values = draw(Noise(0), 20000, dtype=torch.float64)
    assert stats.kstest(values.numpy(), law.cdf).pvalue > 1e-3
    assert draw is DRAWS[0] or (values.min() >= 0 and values.max() < 1)
