r"""Messages: networks that carry one variable to another.

Every message maps (B, *source) to (B, *target); both shapes are given, so that a model names its messages and a data set says
what they are. Batch normalisation couples examples, and the steps of a chain; the norms here do not, unless it is asked for.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]


class Maxout(nn.Module):
    """The greater of two maps: (B, 2C, ...) -> (B, C, ...).  Goodfellow et al. 2013, https://arxiv.org/abs/1302.4389"""

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, 2)).amax(2)


def _activation(leak: float | str) -> tuple[nn.Module, int]:
    """The activation and how many maps it eats per map it gives."""
    return (Maxout(), 2) if leak == "maxout" else (nn.LeakyReLU(leak), 1)


def _norm(kind: str | None, maps: int) -> list[nn.Module]:
    if kind is None:
        return []
    if kind == "group":
        return [nn.GroupNorm(max(1, maps // 16), maps)]
    if kind == "layer":
        return [nn.GroupNorm(1, maps)]
    if kind == "batch":
        return [nn.BatchNorm2d(maps)]
    raise ValueError(f"unknown norm {kind!r}: expected group, layer, batch or null")


def _dropout(p: float | Sequence[float], first: bool) -> list[nn.Module]:
    """Dropout before a layer; a pair is (before the first layer, before every later one)."""
    once, later = (p, p) if isinstance(p, int | float) else p
    chosen = once if first else later
    return [nn.Dropout(chosen)] if chosen else []


class Mlp(nn.Module):
    """Linear layers with leaky rectifiers between them.

    Arguments:
        width: the hidden layers' sizes; [] is an affine map.
        leak: slope of the rectifier's negative side, or "maxout".
        norm: "layer" or null.
        dropout: probability, before every layer; a pair is (before the first, before every later one).
        ends: whether an activation precedes the first layer (for a head, which reads a sum of affine maps).
    """

    def __init__(self, source: Shape, target: Shape, width: Sequence[int] = (256, 256), leak: float | str = 0.2,
                 norm: str | None = None, dropout: float | Sequence[float] = 0.0, ends: bool = False):  # fmt: skip
        super().__init__()
        if norm not in (None, "layer"):
            raise ValueError(f"unknown norm {norm!r} of an mlp: expected layer or null")
        act, eats = _activation(leak)
        sizes = [prod(source), *width]
        layers: list[nn.Module] = [nn.Flatten()]
        if ends:
            layers += [act]
            sizes[0] //= eats
        for k, (wide_in, wide_out) in enumerate(pairwise(sizes)):
            drop = _dropout(dropout, k == 0)
            layers += [*drop, nn.Linear(wide_in, eats * wide_out), *_norm(norm, eats * wide_out), act]
        layers += [*_dropout(dropout, not width), nn.Linear(sizes[-1], prod(target)), nn.Unflatten(1, target)]
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class _ConvTranspose2d(nn.ConvTranspose2d):
    """PyTorch's. Its bfloat16 kernels for CPUs are two to three times as fast where the channels lie last."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            x = x.contiguous(memory_format=torch.channels_last)
        return super().forward(x)


class Conv(nn.Module):
    """Convolutions by a table of (kernel, stride, maps), then a linear map (or a 1 x 1 convolution) onto the target.

    Arguments:
        layers: the table.
        padding: of every convolution; 0 is "valid".
        leak, norm, dropout: as in `Mlp`; norm may also be "group" or "batch".
    """

    transposed = False

    def __init__(self, source: Shape, target: Shape, layers: Sequence[Sequence[int]], padding: int = 0,
                 leak: float | str = 0.2, norm: str | None = None, dropout: float | Sequence[float] = 0.0):  # fmt: skip
        super().__init__()
        act, eats = _activation(leak)
        make = _ConvTranspose2d if self.transposed else nn.Conv2d
        maps, net = source[0], []
        for k, (kernel, stride, out) in enumerate(layers):
            # A kernel of 1 keeps its size; padding it would grow a border of biases.
            pad = padding if kernel > 1 else 0
            net += [*_dropout(dropout, k == 0), make(maps, eats * out, kernel, stride, pad)]
            net += [*_norm(norm, eats * out), act]
            maps = out
        self.net = nn.Sequential(*net, *self._last(_shape_after(net, source), target, _dropout(dropout, not layers)))

    @staticmethod
    def _last(reached: Shape, target: Shape, dropout: list[nn.Module]) -> list[nn.Module]:
        if len(target) == 3:
            if reached[1:] != target[1:]:
                raise ValueError(f"a convolutional message reaches {_show(reached)} where {_show(target)} is needed")
            return [*dropout, nn.Conv2d(reached[0], target[0], 1)]
        return [nn.Flatten(), *dropout, nn.Linear(prod(reached), prod(target)), nn.Unflatten(1, target)]

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Deconv(Conv):
    """`Conv` with transposed convolutions.  A vector is read as maps of one pixel, or led to `start` by a linear map.

    Arguments:
        start: (C, H, W) from which the table begins, or null.
    """

    transposed = True

    def __init__(
        self, source: Shape, target: Shape, layers: Sequence[Sequence[int]], start: Shape | None = None, **options
    ):
        first = tuple(start) if start else (source if len(source) == 3 else (prod(source), 1, 1))
        super().__init__(first, target, layers, **options)
        lead = [nn.Flatten(), nn.Linear(prod(source), prod(first))] if start else []
        self.lead = nn.Sequential(*lead, nn.Unflatten(1, first)) if start or len(source) != 3 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.lead(x if isinstance(self.lead, nn.Identity) else x.flatten(1)))


class Identity(nn.Module):
    """The value as it is: with `points` of a tiny scale a variable is another's copy, for neighbours of its own to hear."""

    def __init__(self, source: Shape, target: Shape):
        super().__init__()
        if source != target:
            raise ValueError(f"the identity leads from {_show(source)} to {_show(source)}, not to {_show(target)}")

    def forward(self, x: Tensor) -> Tensor:
        return x


class Linear(nn.Module):
    """One matrix without bias (biases belong to the prior), read forward here and backward by its `Transposed`."""

    def __init__(self, source: Shape, target: Shape, scale: float = 0.01):
        super().__init__()
        self.source, self.target = source, target
        self.weight = nn.Parameter(scale * torch.randn(prod(target), prod(source)))

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.weight.T).unflatten(1, self.target)


class Transposed(nn.Module):
    """The same matrix, read from its target to its source."""

    def __init__(self, linear: Linear):
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.linear.weight).unflatten(1, self.linear.source)


def _shape_after(layers: Sequence[nn.Module], source: Shape) -> Shape:
    """The shape that the layers make of (*source,), found by running them once on an empty value."""
    net = nn.Sequential(*layers).eval()  # an empty value leaves no trace in batch statistics
    with torch.no_grad():
        try:
            return tuple(net(torch.zeros(2, *source)).shape[1:])
        except RuntimeError as error:
            raise ValueError(f"a convolutional message does not fit {_show(source)}: {error}") from error
        finally:
            net.train()


def _show(shape: Shape) -> str:
    return " x ".join(map(str, shape))


KINDS = {"mlp": Mlp, "conv": Conv, "deconv": Deconv, "linear": Linear, "identity": Identity}


def build_message(network: Mapping, source: Shape, target: Shape) -> nn.Module:
    """A message from its plain description, e.g. {"kind": "mlp", "width": [256, 256]}.

    Raises:
        ValueError: an unknown kind, an unknown option, or shapes that do not meet.
    """
    options = dict(network)
    kind = options.pop("kind", "mlp")
    if kind not in KINDS:
        raise ValueError(f"unknown kind of network {kind!r}: expected one of {', '.join(KINDS)}")
    try:
        return KINDS[kind](tuple(source), tuple(target), **options)
    except TypeError as error:
        raise ValueError(f"network of kind {kind!r}: {error}") from error
