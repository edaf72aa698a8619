"""Samples to numbers: what each one means is written in the docstring of the function that computes it."""

from gibbsnet.evaluation.fills import evaluate_apart, evaluate_fills, evaluate_latent_holes, evaluate_mixes
from gibbsnet.evaluation.inception import find_inception
from gibbsnet.evaluation.labels import evaluate_labels
from gibbsnet.evaluation.suite import STEPS, evaluate, validation_distance

__all__ = [
    "STEPS",
    "evaluate",
    "evaluate_apart",
    "evaluate_fills",
    "evaluate_labels",
    "evaluate_latent_holes",
    "evaluate_mixes",
    "find_inception",
    "validation_distance",
]
