"""Networks before they are trained: what they make of the symmetry functions, fitted to the frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deltaqmmm.ml import CommitteeNetwork, combine
from deltaqmmm.training.preparation import PreparedFrames
from deltaqmmm.training.settings import TrainingSettings

REACH = 6.0
"""Standard deviations over the training set beyond which an input of the networks grows no more: a water that comes
closer than any before would else make energies of any size."""


def untrained_network(
    features: Tensor, atoms: Sequence[Tensor], elements: Sequence[str], scale: float, settings: TrainingSettings
) -> CommitteeNetwork:
    """A committee with random weights, whose inputs are uncorrelated over the frames.

    Args:
        features: Symmetry functions of all frames, shape (F, n, S), float64.
        atoms: The QM atoms of each element.
        elements: Their symbols, sorted.
        scale: Of the energies that are learned, hartree.
        settings: Of the training.
    """
    maps = [_decorrelate(features[:, own].flatten(0, 1), settings) for own in atoms]
    inputs = [transform.shape[1] for _, transform, _ in maps]
    network = CommitteeNetwork(elements, features.shape[2], inputs, settings.hidden, settings.members)
    network.initialise(
        [torch.Generator().manual_seed(settings.seed * 1000 + member) for member in range(settings.members)]
    )
    for element, (mean, transform, reach) in zip(elements, maps, strict=True):
        network.get_buffer(f"mean_{element}").copy_(mean)
        network.get_buffer(f"transform_{element}").copy_(transform)
        network.get_buffer(f"reach_{element}").copy_(reach)
    network.get_buffer("scale").fill_(scale)
    return network


def features_of(frames: PreparedFrames) -> Tensor:
    """Symmetry functions of F frames, shape (F, n, S), float64."""
    return combine([tensor.double() for tensor in frames.moments()])


def _decorrelate(features: Tensor, settings: TrainingSettings) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (F,) of features (N, F), the map (F, D) to uncorrelated combinations, and how far these may reach (D,).

    The combination of variance v (of features of unit variance each) is divided by a power of v: with the power 0 all
    keep their sizes, and networks learn the large ones first; with 1/2 all get the same size, noise included.
    """
    mean = features.mean(dim=0)
    centred = features - mean
    deviation = centred.square().mean(dim=0).sqrt()
    # A feature that never changes (no such neighbour) is left out.
    inverse = torch.where(deviation > 1e-10 * deviation.max(), 1.0 / deviation.clamp(min=1e-30), 0.0)
    standard = centred * inverse
    values, vectors = torch.linalg.eigh(standard.T @ standard / len(features))
    kept = values > settings.smallest_variance * values.mean()
    largest = values.max()
    transform = inverse[:, None] * vectors[:, kept] / (largest.sqrt() * (values[kept] / largest) ** settings.whitening)
    return mean, transform, REACH * (centred @ transform).square().mean(dim=0).sqrt()
