"""Training committees on labelled frames."""

from deltaqmmm.training.preparation import label_of, pad_frames
from deltaqmmm.training.settings import TrainingSettings
from deltaqmmm.training.trainer import EpochReport, Trainer, learning_rate

__all__ = ["EpochReport", "Trainer", "TrainingSettings", "label_of", "learning_rate", "pad_frames"]
