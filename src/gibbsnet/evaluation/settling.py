"""When a chain has settled: its single states never stop, their law does."""

from torch import Tensor


def settled(values: Tensor, tail: int) -> tuple[int, list[float], float]:
    r"""The first sweep at which a chain's mean is where it is in the long run, as far as noise lets one see.

    With m_i the mean over the R chains of one example after i sweeps and m the mean over the last `tail` sweeps,

        d_i = E_examples |m_i - m|^2 / E_examples |m - E_examples m|^2

    in units of the variance between examples.  The band is twice the mean d_i of the tail, which is noise alone if the chain has
    settled by then: at a d_i within the band what is left of the start is less than the noise of a mean of R chains.

    Arguments:
        values: after i = 0, 1, ..., I - 1 sweeps, of R chains for each of n examples, (I, R, n, d).
        tail: how many of the last sweeps stand for the long run; at least 2 and at most I / 2.

    Returns:
        The first i whose d_i lies within the band, d_0 .. d_{I-1}, and the band.
    """
    if not 2 <= tail <= len(values) / 2:
        raise ValueError(f"settled: a tail of {tail} of {len(values)} sweeps; expected 2..{len(values) // 2}")
    means = values.double().mean(1).flatten(2)
    final = means[-tail:].mean(0)
    unit = (final - final.mean(0)).square().sum(1).mean()
    if not unit > 0:
        raise ValueError("settled: the examples settle at one mean; expected two or more that differ")
    distance = (means - final).square().sum(2).mean(1) / unit
    band = 2 * distance[-tail:].mean()
    return int((distance <= band).nonzero()[0]), distance.tolist(), float(band)
