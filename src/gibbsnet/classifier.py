r"""The data set's own judge: a classifier, trained once, whose probabilities and features the scores are made of.

It sees images in [-1, 1], dequantised anew every time, and never a sample of any model. Its weights are a file, named by
their hash, so that two scores are comparable if and only if the hashes agree.
"""

import copy
import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from gibbsnet.data import DataSet, Split, units
from gibbsnet.files import replace
from gibbsnet.noise import Noise, seed_of


class Judge(nn.Module):
    """A small residual convolutional network.

    At each stage a convolution changes the number of channels, the map is pooled to half its size, and a residual
    convolution follows; the last map is pooled to a vector, which a linear layer takes to the features.

    Arguments:
        shape: (C, H, W) of an image.
        classes: number of labels.
        widths: channels of each stage.
        features: F, the number of penultimate features.
    """

    def __init__(self, shape: Sequence[int], classes: int, widths: Sequence[int], features: int):
        super().__init__()
        self.architecture = dict(shape=list(shape), classes=classes, widths=list(widths), features=features)
        channels = [shape[0], *widths]
        self.trunk = nn.Sequential(*(Stage(a, b) for a, b in pairwise(channels)))
        self.project = nn.Sequential(nn.Linear(2 * channels[-1], features, bias=False), nn.BatchNorm1d(features))
        self.head = nn.Linear(features, classes)

    def features(self, x: Tensor) -> Tensor:
        """The penultimate features (B, F), at least 0, of images in [-1, 1], (B, C, H, W)."""
        x = self.trunk(x.to(self.head.weight.dtype))
        pooled = torch.cat([x.amax(dim=(2, 3)), x.mean(dim=(2, 3))], dim=1)
        return functional.relu(self.project(pooled))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        return self.head(self.features(x))


class Stage(nn.Module):
    """Convolution, pooling by two, and a residual convolution: (B, a, H, W) -> (B, b, ceil(H / 2), ceil(W / 2))."""

    def __init__(self, a: int, b: int):
        super().__init__()
        self.enter, self.stay = convolution(a, b), convolution(b, b)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.enter(x), 2, ceil_mode=True)
        return x + self.stay(x)


def convolution(a: int, b: int) -> nn.Sequential:
    """A 3 x 3 convolution to b channels, batch normalisation and a rectifier."""
    return nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())


@dataclass(frozen=True)
class Plan:
    """A judge's size and training, chosen by the size of the images.

    shift: images are shifted by up to so many pixels each way; bf16: worth its rounding where the processor has it; exact:
    trained in float64, and on the CPU, where noise is the same for all.  In float32 another order of summation, by another
    processor or number of threads, is after some hundred steps another judge (class scores of one model on digits then differ by
    .5); in float64 it is the same within 1e-12.
    """

    widths: tuple[int, ...]
    features: int
    epochs: int
    batch: int
    shift: int
    rate: float = 1e-2
    decay: float = 5e-2
    bf16: bool = False
    exact: bool = False


def plan(shape: Sequence[int]) -> Plan:
    """The plan for images of a shape (C, H, W): 8 x 8 digits, small grey images, or colour and everything larger."""
    channels, side = shape[0], max(shape[1:])
    if side <= 16:
        return Plan(widths=(32, 64), features=32, epochs=40, batch=64, shift=1, exact=True)
    if channels == 1 and side <= 32:
        return Plan(widths=(16, 32, 64), features=64, epochs=4, batch=100, shift=2, exact=True)
    halvings = max(0, math.ceil(math.log2(side / 32)))  # larger images are first brought down to about 32 x 32
    return Plan(widths=(*[32] * halvings, 32, 64, 128, 256), features=128, epochs=24, batch=128, shift=4, bf16=True)


def train_judge(
    data: DataSet, seed: int = 0, device: torch.device | str | None = None, plan: Plan | None = None, log=print
) -> tuple[Judge, dict]:
    """Train a judge on the training split, keep its best epoch on the validation split, and try it on the test split.

    Arguments:
        data: images with labels.
        seed: keys the initial weights, the order of the examples and all noise; on a CPU the same seed gives the same weights,
            to float32's last digit where the plan is exact, else with the same processor and number of threads.
        device: where to train; unless given a GPU if there is one, but the CPU where the plan is exact.
        plan: the network and its schedule; by the images' size unless given.
        log: called with one line per epoch.

    Returns:
        The judge, in eval mode on the CPU, and its facts: data, accuracy (test), n (test images), validation_accuracy,
        seed, exact (see `Plan`) and sha256 (of the weights).

    Raises:
        ValueError: when the data set has no labels or is not made of images.
    """
    if data.classes == 0 or len(data.shape) != 3:
        raise ValueError(f"a judge needs labelled images, and {data.name} has none")
    plan = plan or globals()["plan"](data.shape)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() and not plan.exact else "cpu"))
    with torch.random.fork_rng(devices=[]):  # PyTorch draws initial weights from the global generator alone
        torch.manual_seed(seed_of(seed, "judge"))
        judge = Judge(data.shape, data.classes, plan.widths, plan.features)
    dtype = torch.float64 if plan.exact else torch.float32
    judge = judge.to(device, dtype, memory_format=torch.channels_last)
    validation = fit(judge, data, plan, seed, device, log)
    judge = judge.to("cpu", torch.float32, memory_format=torch.contiguous_format).eval()
    return judge, {
        "data": data.name,
        "digest": data.digest,
        "accuracy": accuracy(judge.to(device), data.test, data.levels),
        "n": len(data.test),
        "validation_accuracy": validation,
        "seed": seed,
        "exact": plan.exact,
        "sha256": weights_hash(judge.cpu()),
    }


def fit(judge: Judge, data: DataSet, plan: Plan, seed: int, device: torch.device, log) -> float:
    """Train in place, end on the weights of the best epoch (the later of equals), return its validation accuracy."""
    batches = max(1, len(data.train) // plan.batch)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=plan.rate, weight_decay=plan.decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan.rate, total_steps=plan.epochs * batches)
    best, kept = -1.0, None
    for epoch in range(plan.epochs):
        judge.train()
        order = torch.randperm(len(data.train), generator=Noise(seed, epoch, "judge order").generator)
        for batch, indices in enumerate(order.split(plan.batch)[:batches]):
            x, y = view(data, indices, plan.shift, Noise(seed, epoch, batch, "judge view", device=device))
            with torch.autocast(device.type, torch.bfloat16, enabled=plan.bf16 and has_bf16(device)):
                logits = judge(x.contiguous(memory_format=torch.channels_last))
            loss = functional.cross_entropy(logits.to(judge.head.weight.dtype), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        reached = accuracy(judge, data.validation, data.levels)
        log(f"judge of {data.name}: epoch {epoch + 1}/{plan.epochs}, validation accuracy {reached:.4f}")
        if reached >= best:
            best, kept = reached, copy.deepcopy(judge.state_dict())
    judge.load_state_dict(kept)
    return best


def view(data: DataSet, indices: Tensor, shift: int, noise: Noise) -> tuple[Tensor, Tensor]:
    """Training images as the judge sees them once: shifted, photographs flipped at random, dequantised; and labels."""
    x = shifted(data.train.x[indices].to(noise.device), shift, noise)
    if data.name.startswith("cifar"):  # a mirrored digit or letter is another one; a mirrored animal is not
        flip = noise.uniform((len(x),)) < 0.5
        x = torch.where(flip[:, None, None, None], x.flip(3), x)
    return units(x, data.levels, noise), data.train.y[indices].to(noise.device)


def shifted(x: Tensor, most: int, noise: Noise) -> Tensor:
    """Each image (B, C, H, W) moved by its own whole number of pixels, at most `most` each way, zeros coming in."""
    batch, _, height, width = x.shape
    padded = functional.pad(x, (most,) * 4)
    down, right = (noise.uniform((2, batch)) * (2 * most + 1)).long()
    rows = down[:, None] + torch.arange(height, device=x.device)
    columns = right[:, None] + torch.arange(width, device=x.device)
    everyone = torch.arange(batch, device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[everyone, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@torch.no_grad()
def accuracy(judge: Judge, split: Split, levels: int) -> float:
    """The share of a split's images, dequantised once, that get their label; in [0, 1]."""
    judge.eval()
    device = next(judge.parameters()).device
    noise = Noise(0, "judge accuracy", device=device)
    hits = 0
    for x, y in zip(split.x.split(500), split.y.split(500), strict=True):
        hits += int((judge(units(x.to(device), levels, noise)).argmax(dim=1) == y.to(device)).sum())
    return hits / len(split)


def has_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is fast here: on GPUs, and on processors with instructions for it."""
    return device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()


def weights_hash(judge: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of all weights, buffers included."""
    digest = hashlib.sha256()
    for name, tensor in sorted(judge.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_judge(judge: Judge, facts: dict, path: str | Path) -> None:
    """Write the judge and its facts to one file, whole or not at all."""
    weights = {name: tensor.contiguous().cpu() for name, tensor in judge.state_dict().items()}
    saved = {"architecture": judge.architecture, "weights": weights, "facts": facts}
    buffer = io.BytesIO()  # by itself torch.save takes a full disk for a mistake in the program
    torch.save(saved, buffer)
    # Where the file system has no locks several processes may be at it.
    replace(Path(path), lambda draft: draft.write_bytes(buffer.getvalue()), raced=True)


def load_judge(path: str | Path) -> tuple[Judge, dict]:
    """Read a judge, in eval mode on the CPU, and its facts.

    Raises:
        ValueError: one line, when the file is missing, is no judge, or its weights do not have the hash in its facts.
    """
    path = Path(path)
    remedy = f"make it with: python -m gibbsnet prepare data={path.stem}"
    if not path.is_file():
        raise ValueError(f"no judge at {path}; {remedy}")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        judge = Judge(**saved["architecture"])
        judge.load_state_dict(saved["weights"])
        intact = weights_hash(judge) == saved["facts"]["sha256"]
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        raise ValueError(f"{path} is not a readable judge ({type(error).__name__}); {remedy}") from error
    if not intact:
        raise ValueError(f"the weights in {path} do not have the hash recorded with them; {remedy}")
    return judge.eval(), saved["facts"]
