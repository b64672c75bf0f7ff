"""The networks of one element for all its atoms, forwards and backwards: what `network.InferenceNetwork` does."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from deltaqmmm.jit import Kernel, inlined, keep_blas_on_one_thread
from deltaqmmm.ml.compiled.arrays import array
from deltaqmmm.ml.compiled.radial_loops import exponential
from deltaqmmm.ml.network import ElementNetworks, InferenceNetwork
from deltaqmmm.results import FloatArray, IntArray

CHUNK = 256
"""Numbers at a time in the activation."""


class ElementTable(NamedTuple):
    """The networks of C members for the N_e atoms of one element, with F features and I inputs; L layers.

    Attributes:
        atoms: Numbers of the atoms, shape (N_e,).
        first: How many atoms are of elements before this one.
        scale: Unit of the energies, hartree.
        mean: Shape (F,).
        transform: Shape (F, I).
        reach: Shape (I,).
        weights: Of each layer, shape (C, inputs, outputs).
        biases: Of each layer, shape (C, outputs).
    """

    atoms: IntArray
    first: int
    scale: float
    mean: FloatArray
    transform: FloatArray
    reach: FloatArray
    weights: tuple[FloatArray, ...]
    biases: tuple[FloatArray, ...]


class NetworkRoom(NamedTuple):
    """Room for the networks of one element and N rows: its atoms in all frames.

    Attributes:
        features: Shape (N, F).
        inputs: Shape (N, I).
        bends: Derivatives of the bounded inputs by the inputs, shape (N, I).
        layers: Outputs of each layer, after the activation, shape (C, N, outputs).
        by_layer: Derivatives of the activation, then those of the energies by what goes into it, likewise.
        by_input: Derivatives by the inputs, shape (C, N, I).
        chunk: For the activation, shape (2, `CHUNK`).
    """

    features: FloatArray
    inputs: FloatArray
    bends: FloatArray
    layers: tuple[FloatArray, ...]
    by_layer: tuple[FloatArray, ...]
    by_input: FloatArray
    chunk: FloatArray


def network_room(table: ElementTable, n_frames: int) -> NetworkRoom:
    """Allocated here: in the compiled loops it would take seconds to compile."""
    n_features, n_inputs = table.transform.shape
    n_rows, n_members = n_frames * len(table.atoms), len(table.weights[0])

    def by_layer() -> tuple[FloatArray, ...]:
        return tuple(np.empty((n_members, n_rows, weights.shape[2])) for weights in table.weights)

    return NetworkRoom(
        features=np.empty((n_rows, n_features)),
        inputs=np.empty((n_rows, n_inputs)),
        bends=np.empty((n_rows, n_inputs)),
        layers=by_layer(),
        by_layer=by_layer(),
        by_input=np.empty((n_members, n_rows, n_inputs)),
        chunk=np.empty((2, CHUNK)),
    )


@inlined("contract")
def _bound(reach: FloatArray, scale: float, inputs: FloatArray, bends: FloatArray) -> None:
    """Bound the inputs in place, and fill in the derivatives, times the scale; see `network.bounded`."""
    for row in range(len(inputs)):
        for column in range(len(reach)):
            ratio = inputs[row, column] / reach[column]
            square = ratio * ratio
            power = 1.0 + square * square
            root = 1.0 / math.sqrt(math.sqrt(power))
            inputs[row, column] *= root
            # The derivative of z (1 + (z/c)^4)^(-1/4) is (1 + (z/c)^4)^(-5/4).
            bends[row, column] = scale * root / power


@inlined("contract")
def _activate(bias: FloatArray, values: FloatArray, bends: FloatArray, chunk: FloatArray) -> None:
    """Add the bias (W,) to values (N, W) and make x / (1 + exp(-x)) of them, in place; fill in its derivatives."""
    flat, flat_bends = values.reshape(-1), bends.reshape(-1)
    for row in range(len(values)):
        for column in range(len(bias)):
            values[row, column] += bias[column]
    for start in range(0, len(flat), CHUNK):
        own, own_bends = flat[start : start + CHUNK], flat_bends[start : start + CHUNK]
        for place in range(len(own)):
            chunk[0, place] = -abs(own[place])
        exponential(chunk, chunk, 1, len(own))
        for place in range(len(own)):
            small = chunk[1, place]
            part = 1.0 / (1.0 + small)
            gate = part if own[place] >= 0.0 else small * part
            value = own[place] * gate
            own[place] = value
            own_bends[place] = gate + value * (1.0 - gate)


@inlined("contract")
def _multiply(left: FloatArray, right: FloatArray) -> None:
    """Multiply the left (N, W) by the right in place."""
    for row in range(left.shape[0]):
        for column in range(left.shape[1]):
            left[row, column] *= right[row, column]


@Kernel
def evaluate_element(
    table: ElementTable, features: FloatArray, energies: FloatArray, slopes: FloatArray, room: NetworkRoom
) -> bool:
    """Add the energies of one element, and fill in their derivatives by the features.

    Args:
        table: The networks.
        features: Shape (B, n, F).
        energies: Are added to, shape (C, B), hartree.
        slopes: A row for each member, frame and atom of the element, in this order, shape (C B N_e, F).
        room: For B frames.
    """
    n_frames, n_own, n_hidden = len(features), len(table.atoms), len(table.weights) - 1
    for frame in range(n_frames):
        for place in range(n_own):
            row, given = room.features[frame * n_own + place], features[frame, table.atoms[place]]
            for column in range(len(table.mean)):
                row[column] = given[column] - table.mean[column]
    np.dot(room.features, table.transform, room.inputs)
    _bound(table.reach, table.scale, room.inputs, room.bends)
    for member in range(len(energies)):
        np.dot(room.inputs, table.weights[0][member], room.layers[0][member])
        for layer in range(n_hidden):
            values, bends = room.layers[layer][member], room.by_layer[layer][member]
            _activate(table.biases[layer][member], values, bends, room.chunk)
            np.dot(values, table.weights[layer + 1][member], room.layers[layer + 1][member])
        last, bias = room.layers[n_hidden][member], table.biases[n_hidden][member, 0]
        for row in range(len(last)):
            energies[member, row // n_own] += table.scale * (last[row, 0] + bias)
        room.by_layer[n_hidden][member][:] = 1.0
        for layer in range(n_hidden, 0, -1):
            # The outputs of the layer before are of no more use.
            back = room.layers[layer - 1][member]
            np.dot(room.by_layer[layer][member], table.weights[layer][member].T, back)
            _multiply(room.by_layer[layer - 1][member], back)
        np.dot(room.by_layer[0][member], table.weights[0][member].T, room.by_input[member])
        _multiply(room.by_input[member], room.bends)
    rows = room.by_input.reshape(len(energies) * n_frames * n_own, len(table.reach))
    np.dot(rows, table.transform.T, slopes)
    return True


class CompiledNetwork:
    """The networks of a committee in float64 on the CPU.

    Args:
        network: The same on whole arrays.
    """

    def __init__(self, network: InferenceNetwork) -> None:
        keep_blas_on_one_thread()
        self.n_members = network.n_members
        self._tables: list[ElementTable] = []
        n_atoms = sum(len(own.atoms) for own in network.elements)
        self.blocks = np.empty((n_atoms, 3), dtype=np.int64)
        first = 0
        for own in network.elements:
            atoms = array(own.atoms)
            for place, atom in enumerate(atoms):
                self.blocks[atom] = first, len(atoms), place
            self._tables.append(_element_table(own, first, float(network.scale)))
            first += len(atoms)

    def energies_and_slopes(self, features: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Energies of the members, without the offsets of the elements, and their derivatives by the features.

        Args:
            features: Shape (B, n, F).

        Returns:
            Shape (C, B), hartree, and (C B n, F): the row of a member, frame and atom is
            C B first + (member B + frame) count + place, with (first, count, place) the `blocks` of the atom.
        """
        n_frames, n_atoms, n_features = features.shape
        n_rows = self.n_members * n_frames
        energies, slopes = np.zeros((self.n_members, n_frames)), np.empty((n_rows * n_atoms, n_features))
        for table in self._tables:
            own = slopes[n_rows * table.first : n_rows * (table.first + len(table.atoms))]
            evaluate_element(table, features, energies, own, network_room(table, n_frames))
        return energies, slopes


def _element_table(own: ElementNetworks, first: int, scale: float) -> ElementTable:
    return ElementTable(
        atoms=array(own.atoms),
        first=first,
        scale=scale,
        mean=array(own.mean),
        transform=array(own.transform),
        reach=array(own.reach),
        weights=tuple(array(weight) for weight in own.weights),
        biases=tuple(array(bias)[:, 0].copy() for bias in own.biases),
    )
