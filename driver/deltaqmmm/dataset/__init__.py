"""The dataset file: frames with their reference and baseline labels, in HDF5."""

from deltaqmmm.dataset.contents import (
    Dataset,
    EnergyLabel,
    Failure,
    LabelledFrame,
    LabelSettings,
    Source,
    SystemTable,
)
from deltaqmmm.dataset.file import read_dataset, write_dataset

__all__ = [
    "Dataset",
    "EnergyLabel",
    "Failure",
    "LabelSettings",
    "LabelledFrame",
    "Source",
    "SystemTable",
    "read_dataset",
    "write_dataset",
]
