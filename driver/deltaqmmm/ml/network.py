"""Per-element networks for all members of a committee at once.

    E = scale * sum_i N_e(i)(bounded(T_e (G_i - mean_e)))

with N_e a small feed-forward network for element e of atom i, and T_e a fixed linear map that makes the features
uncorrelated over the training set. An input z is bounded by its reach c, some standard deviations over the training
set: z / (1 + (z / c)^4)^(1/4) is z where there are training data, and far from them it never leaves (-c, c).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn


class CommitteeNetwork(nn.Module):
    """C networks for each of E elements; the same features go to all members.

    Args:
        elements: Elements, sorted.
        n_features: Features F of each atom.
        n_inputs: Inputs of the networks of each element, after the linear map.
        hidden: Widths of the hidden layers.
        n_members: Number of members C.
    """

    def __init__(
        self, elements: Sequence[str], n_features: int, n_inputs: Sequence[int], hidden: Sequence[int], n_members: int
    ) -> None:
        super().__init__()
        self.elements = tuple(elements)
        self.n_features = n_features
        self.n_inputs = tuple(n_inputs)
        self.hidden = tuple(hidden)
        self.n_members = n_members
        self.register_buffer("scale", torch.ones(()))
        for element, inputs in zip(elements, n_inputs, strict=True):
            self.register_buffer(f"mean_{element}", torch.zeros(n_features))
            self.register_buffer(f"transform_{element}", torch.zeros(n_features, inputs))
            self.register_buffer(f"reach_{element}", torch.ones(inputs))
            widths = [inputs, *hidden, 1]
            for layer, (width_in, width_out) in enumerate(pairwise(widths)):
                weight = torch.empty(n_members, width_in, width_out)
                self.register_parameter(f"weight_{element}_{layer}", nn.Parameter(weight))
                self.register_parameter(f"bias_{element}_{layer}", nn.Parameter(torch.zeros(n_members, 1, width_out)))

    @property
    def n_parameters(self) -> int:
        """Number of fitted parameters of one member."""
        return sum(parameter.numel() for parameter in self.parameters()) // self.n_members

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        """Draw the weights: one generator for each member. The output starts small."""
        n_layers = len(self.hidden) + 1
        with torch.no_grad():
            for member, generator in enumerate(generators):
                for element in self.elements:
                    for layer in range(n_layers):
                        weight = self.get_parameter(f"weight_{element}_{layer}")
                        size = (0.1 if layer == n_layers - 1 else 1.0) / weight.shape[1] ** 0.5
                        drawn = torch.randn(weight.shape[1:], generator=generator, dtype=torch.float64) * size
                        weight[member] = drawn.to(weight)
                        self.get_parameter(f"bias_{element}_{layer}")[member] = 0.0

    def forward(self, features: Tensor, atoms: Sequence[Tensor]) -> Tensor:
        """Energies of the members.

        Args:
            features: Shape (B, n, F), the same for all members, or (C, B, n, F).
            atoms: For each element, the numbers of its atoms.

        Returns:
            Shape (C, B), in units of the model's energies, hartree, without the offsets of the elements.
        """
        total: Tensor | float = 0.0
        n_frames = features.shape[-3]
        for element, indices in zip(self.elements, atoms, strict=True):
            if len(indices) == 0:
                continue
            mean, transform = self.get_buffer(f"mean_{element}"), self.get_buffer(f"transform_{element}")
            inputs = (features.index_select(-2, indices) - mean) @ transform
            inputs = bounded(inputs, self.get_buffer(f"reach_{element}"))
            values = inputs.reshape(*features.shape[:-3], -1, inputs.shape[-1])
            if values.dim() == 2:
                values = values.expand(self.n_members, -1, -1)
            for layer in range(len(self.hidden) + 1):
                if layer > 0:
                    values = nn.functional.silu(values)
                weight = self.get_parameter(f"weight_{element}_{layer}")
                values = torch.baddbmm(self.get_parameter(f"bias_{element}_{layer}"), values, weight)
            total = total + values.reshape(self.n_members, n_frames, -1).sum(dim=-1)
        if not isinstance(total, Tensor):
            raise ValueError("no atom of any element of the model")
        return total * self.get_buffer("scale")

    def member(self, index: int) -> CommitteeNetwork:
        """A committee of one: a copy of this member."""
        single = CommitteeNetwork(self.elements, self.n_features, self.n_inputs, self.hidden, 1)
        single = single.to(self.get_buffer("scale"))
        state = {
            name: tensor[index : index + 1].clone() if name.startswith(("weight", "bias")) else tensor.clone()
            for name, tensor in self.state_dict().items()
        }
        single.load_state_dict(state)
        return single


def bounded(values: Tensor, reach: Tensor) -> Tensor:
    """Values as they are where they are small against the reach, and less than it where they are large."""
    return values * (1.0 + (values / reach).square().square()).sqrt().rsqrt()


class InferenceNetwork:
    """The same networks for inference: what the members share is computed once, derivatives come without a graph.

    Args:
        network: The committee.
        atoms: For each element, the numbers of its atoms.
        device: Where it computes.
        dtype: Floating type.

    Attributes:
        n_members: Number of members C.
        scale: Unit of the energies, hartree.
        elements: The networks of the elements that have atoms.
    """

    def __init__(
        self, network: CommitteeNetwork, atoms: Sequence[Tensor], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.n_members = network.n_members
        copied = {
            name: tensor.detach().clone().to(device=device, dtype=dtype)
            for name, tensor in network.state_dict().items()
        }
        self.scale = copied["scale"]
        self.elements = [
            ElementNetworks(
                atoms=indices.to(device),
                mean=copied[f"mean_{element}"],
                transform=copied[f"transform_{element}"],
                reach=copied[f"reach_{element}"],
                weights=[copied[f"weight_{element}_{layer}"] for layer in range(len(network.hidden) + 1)],
                biases=[copied[f"bias_{element}_{layer}"] for layer in range(len(network.hidden) + 1)],
            )
            for element, indices in zip(network.elements, atoms, strict=True)
            if len(indices) > 0
        ]

    def energies_and_slopes(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Energies of the members, without the offsets of the elements, and their derivatives by the features.

        Args:
            features: Shape (B, n, F).

        Returns:
            Shape (C, B), hartree, and (C, B, n, F).
        """
        n_frames, n_atoms, n_features = features.shape
        energies = features.new_zeros(self.n_members, n_frames)
        slopes = features.new_empty(self.n_members, n_frames, n_atoms, n_features)
        for networks in self.elements:
            found, by_feature = networks.energies_and_slopes(features.index_select(1, networks.atoms).flatten(0, 1))
            energies += found.reshape(self.n_members, n_frames, -1).sum(dim=-1)
            slopes[:, :, networks.atoms] = by_feature.reshape(self.n_members, n_frames, -1, n_features)
        return energies * self.scale, slopes.mul_(self.scale)


@dataclass(frozen=True, eq=False)
class ElementNetworks:
    """The networks of one element; see `CommitteeNetwork`.

    Attributes:
        atoms: Numbers of its N_e atoms.
        mean: Shape (F,).
        transform: Shape (F, inputs).
        reach: Shape (inputs,).
        weights: Of each layer, shape (C, inputs, outputs).
        biases: Of each layer, shape (C, 1, outputs).
    """

    atoms: Tensor
    mean: Tensor
    transform: Tensor
    reach: Tensor
    weights: Sequence[Tensor]
    biases: Sequence[Tensor]

    def energies_and_slopes(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Of N atoms with features (N, F): outputs (C, N, 1) and their derivatives (C, N, F)."""
        inputs = (features - self.mean) @ self.transform
        powers = 1.0 + (inputs / self.reach).square().square()
        roots = powers.sqrt().rsqrt()
        values = (inputs * roots).expand(len(self.weights[0]), -1, -1)
        bends: list[Tensor] = []
        for weight, bias in zip(self.weights, self.biases, strict=True):
            values = torch.baddbmm(bias, values, weight)
            if len(bends) < len(self.weights) - 1:
                gates = torch.sigmoid(values)
                values = values * gates
                bends.append(gates + values * (1.0 - gates))
        by_value = self.weights[-1].transpose(1, 2)
        for weight, bend in zip(reversed(self.weights[:-1]), reversed(bends), strict=True):
            by_value = (by_value * bend) @ weight.transpose(1, 2)
        # The derivative of z (1 + (z/c)^4)^(-1/4) is (1 + (z/c)^4)^(-5/4).
        return values, (by_value * (roots / powers)) @ self.transform.T
