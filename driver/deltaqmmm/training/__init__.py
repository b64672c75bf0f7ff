"""Training committees on labelled frames."""

from deltaqmmm.training.preparation import label_of, pad_frames
from deltaqmmm.training.report import EpochReport
from deltaqmmm.training.schedule import learning_rate
from deltaqmmm.training.settings import TrainingSettings
from deltaqmmm.training.trainer import Trainer

__all__ = ["EpochReport", "Trainer", "TrainingSettings", "label_of", "learning_rate", "pad_frames"]
