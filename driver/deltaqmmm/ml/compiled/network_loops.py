"""The networks of one element for all its atoms, forwards and backwards: what `network.InferenceNetwork` does."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from deltaqmmm.jit import Kernel, inlined, keep_blas_on_one_thread
from deltaqmmm.ml.compiled.arrays import array
from deltaqmmm.ml.compiled.lanes import MEMBERS, n_groups
from deltaqmmm.ml.compiled.radial_loops import exponential
from deltaqmmm.ml.compiled.rooms import kept
from deltaqmmm.ml.network import ElementNetworks, InferenceNetwork
from deltaqmmm.results import FloatArray, IntArray

CHUNK = 256
"""Numbers at a time in the activation."""
ROWS = 64
"""Atoms at a time: what is known of them stays in a fast cache."""


class ElementTable(NamedTuple):
    """The networks of C members for the N_e atoms of one element, with F features and I inputs; L layers.

    Attributes:
        atoms: Numbers of the atoms, shape (N_e,).
        scale: Unit of the energies, hartree.
        mean: Shape (F,).
        transform: Shape (F, I).
        reach: Shape (I,).
        weights: Of each layer, shape (C, inputs, outputs).
        biases: Of each layer, shape (C, outputs).
    """

    atoms: IntArray
    scale: float
    mean: FloatArray
    transform: FloatArray
    reach: FloatArray
    weights: tuple[FloatArray, ...]
    biases: tuple[FloatArray, ...]


class NetworkRoom(NamedTuple):
    """Room for the networks of one element and N rows: some of its atoms in all frames.

    Attributes:
        features: Shape (N, F).
        inputs: Shape (N, I).
        bends: Derivatives of the bounded inputs by the inputs, shape (N, I).
        layers: Outputs of each layer, after the activation, shape (C, N, outputs).
        by_layer: Derivatives of the activation, then those of the energies by what goes into it, likewise.
        by_input: Derivatives by the inputs, shape (C N, I).
        by_feature: Derivatives by the features, members filled up to groups of four, shape (4 G N, F).
        chunk: For the activation, shape (2, `CHUNK`).
    """

    features: FloatArray
    inputs: FloatArray
    bends: FloatArray
    layers: tuple[FloatArray, ...]
    by_layer: tuple[FloatArray, ...]
    by_input: FloatArray
    by_feature: FloatArray
    chunk: FloatArray


def network_room(table: ElementTable, n_frames: int) -> NetworkRoom:
    """Room for the atoms of one element in some frames."""
    widths = tuple(weights.shape[2] for weights in table.weights)
    n_rows = min(n_frames * len(table.atoms), ROWS)
    n_features, n_inputs = table.transform.shape
    return _network_room(n_rows, len(table.weights[0]), n_features, n_inputs, widths)


@kept
def _network_room(n_rows: int, n_members: int, n_features: int, n_inputs: int, widths: tuple[int, ...]) -> NetworkRoom:
    def by_layer() -> tuple[FloatArray, ...]:
        return tuple(np.empty((n_members, n_rows, width)) for width in widths)

    return NetworkRoom(
        features=np.empty((n_rows, n_features)),
        inputs=np.empty((n_rows, n_inputs)),
        bends=np.empty((n_rows, n_inputs)),
        layers=by_layer(),
        by_layer=by_layer(),
        by_input=np.empty((n_members * n_rows, n_inputs)),
        by_feature=np.empty((MEMBERS * n_groups(n_members) * n_rows, n_features)),
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


@inlined("contract")
def _load_features(table: ElementTable, features: FloatArray, begin: int, found: FloatArray) -> None:
    """Fill in the features of some atoms (N, F), without their means."""
    n_own = len(table.atoms)
    for row in range(len(found)):
        given, own = features[(begin + row) // n_own, table.atoms[(begin + row) % n_own]], found[row]
        for column in range(len(own)):
            own[column] = given[column] - table.mean[column]


@inlined("contract")
def _give_slopes(table: ElementTable, by_feature: FloatArray, begin: int, slopes: FloatArray) -> None:
    """Fill in the derivatives by the features of some atoms, N, from those of each member (4 G N, F)."""
    n_own, n_rows = len(table.atoms), len(by_feature) // (MEMBERS * len(slopes))
    for row in range(n_rows):
        frame, atom = (begin + row) // n_own, table.atoms[(begin + row) % n_own]
        for group in range(len(slopes)):
            found, first = slopes[group, frame, atom], group * MEMBERS * n_rows + row
            # All of a group at once: what is found is too much for a fast cache.
            a, b = by_feature[first], by_feature[first + n_rows]
            c, d = by_feature[first + 2 * n_rows], by_feature[first + 3 * n_rows]
            for column in range(len(found)):
                found[column, 0], found[column, 1] = a[column], b[column]
                found[column, 2], found[column, 3] = c[column], d[column]


@inlined("contract")
def _evaluate_rows(
    table: ElementTable, features: FloatArray, begin: int, count: int, energies: FloatArray, room: NetworkRoom
) -> None:
    """Add the energies of some atoms, and fill in their derivatives by the features in the room."""
    n_own, n_hidden, n_members = len(table.atoms), len(table.weights) - 1, len(energies)
    own, inputs, bends = room.features[:count], room.inputs[:count], room.bends[:count]
    _load_features(table, features, begin, own)
    np.dot(own, table.transform, inputs)
    _bound(table.reach, table.scale, inputs, bends)
    for member in range(n_members):
        np.dot(inputs, table.weights[0][member], room.layers[0][member][:count])
        for layer in range(n_hidden):
            values, slopes = room.layers[layer][member][:count], room.by_layer[layer][member][:count]
            _activate(table.biases[layer][member], values, slopes, room.chunk)
            np.dot(values, table.weights[layer + 1][member], room.layers[layer + 1][member][:count])
        last, bias = room.layers[n_hidden][member][:count], table.biases[n_hidden][member, 0]
        for row in range(count):
            energies[member, (begin + row) // n_own] += table.scale * (last[row, 0] + bias)
        room.by_layer[n_hidden][member][:count] = 1.0
        for layer in range(n_hidden, 0, -1):
            # The outputs of the layer before are of no more use.
            back = room.layers[layer - 1][member][:count]
            np.dot(room.by_layer[layer][member][:count], table.weights[layer][member].T, back)
            _multiply(room.by_layer[layer - 1][member][:count], back)
        by_input = room.by_input[member * count : (member + 1) * count]
        np.dot(room.by_layer[0][member][:count], table.weights[0][member].T, by_input)
        _multiply(by_input, bends)
    np.dot(room.by_input[: n_members * count], table.transform.T, room.by_feature[: n_members * count])
    room.by_feature[n_members * count :] = 0.0


@Kernel
def evaluate_element(
    table: ElementTable, features: FloatArray, energies: FloatArray, slopes: FloatArray, room: NetworkRoom
) -> bool:
    """Add the energies of one element, and fill in their derivatives by the features.

    Args:
        table: The networks.
        features: Shape (B, n, F).
        energies: Are added to, shape (C, B), hartree.
        slopes: Those of the atoms of the element are filled in, shape (G, B, n, F, 4); see `lanes`.
        room: For B frames.
    """
    n_rows, n_lanes = len(features) * len(table.atoms), MEMBERS * len(slopes)
    for begin in range(0, n_rows, ROWS):
        count = min(ROWS, n_rows - begin)
        _evaluate_rows(table, features, begin, count, energies, room)
        _give_slopes(table, room.by_feature[: n_lanes * count], begin, slopes)
    return True


class CompiledNetwork:
    """The networks of a committee in float64 on the CPU.

    Args:
        network: The same on whole arrays.
    """

    def __init__(self, network: InferenceNetwork) -> None:
        keep_blas_on_one_thread()
        self.n_members = network.n_members
        self._tables = [_element_table(own, float(network.scale)) for own in network.elements]

    def energies_and_slopes(self, features: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Energies of the members, without the offsets of the elements, and their derivatives by the features.

        Args:
            features: Shape (B, n, F).

        Returns:
            Shape (C, B), hartree, and (G, B, n, F, 4), hartree; see `lanes`.
        """
        n_frames = len(features)
        energies = np.zeros((self.n_members, n_frames))
        slopes = np.empty((n_groups(self.n_members), *features.shape, MEMBERS))
        for table in self._tables:
            evaluate_element(table, features, energies, slopes, network_room(table, n_frames))
        return energies, slopes


def _element_table(own: ElementNetworks, scale: float) -> ElementTable:
    return ElementTable(
        atoms=array(own.atoms),
        scale=scale,
        mean=array(own.mean),
        transform=array(own.transform),
        reach=array(own.reach),
        weights=tuple(array(weight) for weight in own.weights),
        biases=tuple(array(bias)[:, 0].copy() for bias in own.biases),
    )
