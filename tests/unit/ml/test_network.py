"""The networks of a committee as they are evaluated, against those that are trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deltaqmmm.ml.compiled.lanes import MEMBERS, by_member
from deltaqmmm.ml.compiled.network_loops import CHUNK, ROWS, CompiledNetwork
from deltaqmmm.ml.network import InferenceNetwork, bounded
from tests.unit.ml.helpers import make_model

CPU = torch.device("cpu")
# Of C, H, N and O the second has two atoms, and the third none.
ATOMS = [torch.tensor(numbers, dtype=torch.int64) for numbers in ([0], [1, 3], [], [2])]


def make_case(hidden, n_members=3, n_frames=5):
    network = make_model(hidden=hidden, n_members=n_members).network.requires_grad_(False)
    generator = torch.Generator().manual_seed(5)
    return network, torch.randn(n_frames, 4, network.n_features, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("hidden", [(6,), (8, 5), (4, 4, 4)])
@pytest.mark.parametrize("n_members", [1, 3])
def test_energies_and_slopes_are_those_of_the_networks(hidden, n_members):
    network, features = make_case(hidden, n_members)
    energies, slopes = InferenceNetwork(network, ATOMS, CPU, torch.float64).energies_and_slopes(features)
    assert slopes.shape == (n_members, *features.shape)
    leaf = features.clone().requires_grad_()
    expected = network(leaf, ATOMS)
    torch.testing.assert_close(energies, expected.detach(), rtol=1e-11, atol=1e-13)
    for member in range(n_members):
        (own,) = torch.autograd.grad(expected[member].sum(), leaf, retain_graph=True)
        torch.testing.assert_close(slopes[member], own, rtol=1e-11, atol=1e-13)
    assert slopes.abs().amax(dim=(0, 1, 3)).min() > 1e-4


def test_single_precision_is_close_to_double():
    network, features = make_case((8, 5))
    expected = InferenceNetwork(network, ATOMS, CPU, torch.float64).energies_and_slopes(features)
    found = InferenceNetwork(network, ATOMS, CPU, torch.float32).energies_and_slopes(features.float())
    for tensor, other in zip(found, expected, strict=True):
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor.double(), other, rtol=0.0, atol=3e-6 * float(other.abs().max()))


@pytest.mark.parametrize(
    "name", ["scale", "weight_O_0", "weight_O_1", "weight_O_2", "bias_O_1", "mean_O", "transform_O", "reach_O"]
)
def test_it_is_a_copy(name):
    network, features = make_case((8, 5))
    folded = InferenceNetwork(network, ATOMS, CPU, torch.float64)
    before = [tensor.clone() for tensor in folded.energies_and_slopes(features)]
    state = network.state_dict()
    state[name].mul_(2.0)
    after = folded.energies_and_slopes(features)
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    changed = InferenceNetwork(network, ATOMS, CPU, torch.float64).energies_and_slopes(features)
    assert not torch.equal(changed[0], before[0])


def test_inputs_are_bounded_far_from_the_training_set():
    reach = torch.tensor([2.0, 6.0], dtype=torch.float64)
    values = torch.tensor([[0.2, 0.6], [2.0, -6.0], [2000.0, -6000.0]], dtype=torch.float64)
    found = bounded(values, reach)
    torch.testing.assert_close(found[0], values[0], rtol=3e-5, atol=0.0)
    torch.testing.assert_close(found[1], torch.tensor([2.0, -6.0]).double() / 2.0**0.25)
    torch.testing.assert_close(found[2], torch.tensor([2.0, -6.0]).double(), rtol=1e-9, atol=0.0)


def assert_compiled_as_folded(hidden, n_members, n_frames):
    network, features = make_case(hidden, n_members, n_frames)
    # Far from the training data too, where gates are open or shut.
    features *= torch.tensor([1.0, 30.0, 1.0, 1.0, 1e3]).repeat(n_frames)[:n_frames, None, None]
    folded = InferenceNetwork(network, ATOMS, CPU, torch.float64)
    expected, by_feature = folded.energies_and_slopes(features)
    compiled = CompiledNetwork(folded)
    with pytest.MonkeyPatch.context() as patch:
        # What memory held before is not to show.
        patch.setattr(np, "empty", lambda shape: np.full(shape, np.nan))
        energies, slopes = compiled.energies_and_slopes(features.numpy())
    torch.testing.assert_close(torch.from_numpy(energies), expected, rtol=1e-12, atol=1e-14)
    # What fills groups of members up is zero.
    assert not by_member(slopes, len(slopes) * MEMBERS)[n_members:].any()
    slopes = torch.from_numpy(by_member(slopes, n_members))
    for atom in range(slopes.shape[2]):
        largest = float(by_feature[:, :, atom].abs().max())
        torch.testing.assert_close(slopes[:, :, atom], by_feature[:, :, atom], rtol=0.0, atol=1e-13 * largest)


@pytest.mark.parametrize("hidden", [(), (6,), (8, 5), (4, 4, 4)])
@pytest.mark.parametrize("n_members", [1, 3, MEMBERS + 1])
def test_compiled_networks(hidden, n_members):
    assert_compiled_as_folded(hidden, n_members, n_frames=5)


# Of the element with one atom there are as many as at a time, or one more; that with two has twice as many.
@pytest.mark.parametrize("n_frames", [ROWS, ROWS + 1])
@pytest.mark.parametrize("n_members", [1, MEMBERS])
def test_compiled_networks_with_more_atoms_than_at_a_time(n_frames, n_members):
    assert_compiled_as_folded((8, 5), n_members, n_frames)


# Numbers in the layers of an element with one atom; that with two has twice as many.
@pytest.mark.parametrize(
    ("hidden", "n_frames", "numbers"),
    [((40, 33), 9, (CHUNK + 104, CHUNK + 41)), ((32,), 8, (CHUNK,)), ((51, 257), 1, (51, CHUNK + 1))],
)
def test_compiled_networks_with_more_numbers_than_at_a_time(hidden, n_frames, numbers):
    assert tuple(n_frames * width for width in hidden) == numbers
    assert_compiled_as_folded(hidden, 2, n_frames)


def test_compiled_networks_show_what_is_not_a_number():
    network, features = make_case((8, 5))
    features[1, 3, 2] = torch.nan
    energies, _ = CompiledNetwork(InferenceNetwork(network, ATOMS, CPU, torch.float64)).energies_and_slopes(
        features.numpy()
    )
    shows = torch.from_numpy(energies).isnan()
    assert shows[:, 1].all()
    assert not shows[:, [0, 2, 3, 4]].any()
