"""The exceptions that deltaqmmm raises.

Each message names the thing at fault, what was got, what is needed, and the remedy. The command line prints the
message of a `DeltaqmmmError` without a traceback and exits with status 1.
"""

from __future__ import annotations


class DeltaqmmmError(Exception):
    """Base class of all errors that deltaqmmm raises on purpose."""


class InputError(DeltaqmmmError):
    """Something the user gave (a file, a key, a selection, a frame) cannot be used."""


class ConfigError(InputError):
    """The configuration file is missing, malformed, or holds an unknown or impossible value."""


class TopologyError(InputError):
    """The molecular topology or the QM/MM split cannot be used."""


class ParameterError(InputError):
    """Slater-Koster files, Hubbard derivatives or other parameters are missing or malformed."""


class FrameError(InputError):
    """Positions or cells are non-finite, singular, or of the wrong shape."""


class DatasetError(InputError):
    """A dataset file is missing, damaged, foreign, or made with other settings than the ones at hand."""


class ModelError(InputError):
    """A model file is missing, damaged or foreign, or was made for another system or other settings."""


class SpreadError(DeltaqmmmError):
    """The members of a committee disagree more than the configuration allows."""


class OutputError(DeltaqmmmError):
    """A file cannot be written: the disk is full, or the place is not for us."""


class ConvergenceError(DeltaqmmmError):
    """An iterative calculation did not reach its tolerance, after every safer retry."""


class NonFiniteError(DeltaqmmmError):
    """A computed energy, force or virial is not finite."""


class DeviceMemoryError(DeltaqmmmError):
    """The memory of the device does not hold what is to be computed."""


class ExternalToolError(DeltaqmmmError):
    """A program that deltaqmmm runs (antechamber, tleap, i-PI) is missing or failed."""


class ProtocolError(DeltaqmmmError):
    """The peer on the socket is not i-PI, or sent an unknown or truncated message."""


class ServerUnavailableError(DeltaqmmmError):
    """No i-PI server could be reached within the time allowed."""
