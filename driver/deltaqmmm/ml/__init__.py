"""The high-dimensional neural network potential with MM particles as further element types."""

from deltaqmmm.ml.committee import (
    CommitteeModel,
    CommitteeResult,
    Correction,
    ModelInfo,
)
from deltaqmmm.ml.derivatives import SiteDerivatives, StoredDerivatives
from deltaqmmm.ml.descriptor import Descriptor, SiteTypes, type_names
from deltaqmmm.ml.features import combine, n_features
from deltaqmmm.ml.functions import COULOMB, RadialFunction, SymmetryFunctions, default_functions
from deltaqmmm.ml.model_file import load_model, save_model
from deltaqmmm.ml.monomials import rank_of
from deltaqmmm.ml.network import CommitteeNetwork
from deltaqmmm.ml.shells import Shell
from deltaqmmm.ml.surroundings import Surroundings, pull_back

__all__ = [
    "COULOMB",
    "CommitteeModel",
    "CommitteeNetwork",
    "CommitteeResult",
    "Correction",
    "Descriptor",
    "ModelInfo",
    "RadialFunction",
    "Shell",
    "SiteDerivatives",
    "SiteTypes",
    "StoredDerivatives",
    "Surroundings",
    "SymmetryFunctions",
    "combine",
    "default_functions",
    "load_model",
    "n_features",
    "pull_back",
    "rank_of",
    "save_model",
    "type_names",
]
