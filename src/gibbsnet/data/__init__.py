"""Reading data sets, their splits, dequantisation, and the one LightningDataModule."""

from gibbsnet.data.attributes import ATTRIBUTES, Measure
from gibbsnet.data.masks import HOLES, hole
from gibbsnet.data.module import Batches, DataModule, Draw, State
from gibbsnet.data.readers import load
from gibbsnet.data.sets import DataError, DataSet, Modes, Split, units

__all__ = [
    "ATTRIBUTES", "HOLES", "Batches", "DataError", "DataModule", "DataSet", "Draw", "Measure", "Modes", "Split", "State",
    "hole", "load", "units",
]  # fmt: skip
