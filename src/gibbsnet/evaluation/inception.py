r"""The real Inception score and FID, by the reference protocol and only when its network and weights are at hand.

The network is torch-fidelity's port of the 2015 TensorFlow graph. It takes uint8 images of shape (B, 3, H, W) and resizes
them itself. The score uses its 1008 logits *without* bias, in 10 contiguous parts of the samples; the distance uses its
2048 pooled features.

References: Salimans et al., https://arxiv.org/abs/1606.03498; Heusel et al., https://arxiv.org/abs/1706.08500;
torch-fidelity, https://github.com/toshas/torch-fidelity
"""

import importlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from gibbsnet.evaluation.scores import Statistics, class_score, frechet

log = logging.getLogger(__name__)

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"  # as torch-fidelity publishes them
Extractor = Callable[[Tensor], tuple[Tensor, Tensor]]  # uint8 (B, 3, H, W) -> features (B, 2048), logits (B, 1008)


def find_inception(weights: str | Path | None = None, device: torch.device | str = "cpu") -> Extractor | None:
    """The feature extractor, or None and a logged line that says what is missing. Nothing is downloaded.

    Arguments:
        weights: the file of weights; else the variable INCEPTION_WEIGHTS, else torch hub's folder of checkpoints.
        device: where it computes.
    """
    path = Path(weights or os.environ.get("INCEPTION_WEIGHTS") or Path(torch.hub.get_dir(), "checkpoints", WEIGHTS))
    try:
        network = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3").FeatureExtractorInceptionV3
    except (ImportError, RuntimeError, AttributeError) as error:  # a torchvision that does not fit raises RuntimeError
        log.warning("inception_score and fid are left out: torch-fidelity cannot be imported (%s)", error)
        return None
    if not path.is_file():
        log.warning("inception_score and fid are left out: no weights at %s (set INCEPTION_WEIGHTS)", path)
        return None
    extractor = network("inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path))
    return extractor.to(device)


def to_bytes(x: Tensor) -> Tensor:
    """Images in [-1, 1] to uint8 (B, 3, H, W): the inverse of dequantisation with 256 levels, grey repeated thrice."""
    pixels = ((x + 1) * 128).floor().clamp(0, 255).to(torch.uint8)
    return pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels


def extract(extractor: Extractor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features (B, 2048) and logits (B, 1008), on the CPU, of one batch of uint8 images (B, 3, H, W).

    Raises:
        ValueError: for anything but uint8 RGB images, which would give numbers that look right and are not.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"Inception needs uint8 (B, 3, H, W), not {images.dtype} {tuple(images.shape)}")
    weight = next(extractor.parameters(), None) if isinstance(extractor, torch.nn.Module) else None
    features, logits = extractor(images if weight is None else images.to(weight.device))
    return features.cpu(), logits.cpu()


def inception_scores(samples: Sequence[tuple[Tensor, Tensor]], real: Sequence[Tensor]) -> dict[str, float]:
    """inception_score, inception_score_std and fid, from batches: features and logits of samples, features of real images."""
    features, logits = (torch.cat(part) for part in zip(*samples, strict=True))
    score, std = class_score(logits.double().softmax(dim=1), splits=10)
    distance = frechet(Statistics.of(features), Statistics.of(torch.cat(list(real))))
    return {"inception_score": score, "inception_score_std": std, "fid": distance}
