import numpy as np
import pytest
import torch

from deltaqmmm.committee import NEAR, CommitteeSettings, Fade, MemberDeviations, combine, force_spreads
from deltaqmmm.errors import ConfigError
from deltaqmmm.ipi.wire import transpose
from deltaqmmm.ml import CommitteeResult, StoredDerivatives


def result_of(energies):
    """Members whose gradients are arbitrary."""
    energies = torch.tensor(energies, dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(*energies.shape, *shape, generator=generator, dtype=torch.float64)

    return CommitteeResult(energies, draw(4, 3), StoredDerivatives(draw(5, 3), draw(5)))


def test_the_mean_and_the_sample_standard_deviation():
    energies = [[1.0, 5.0], [2.0, 5.0], [6.0, 5.0]]
    result = result_of(energies)
    committee = combine(result, CommitteeSettings())
    np.testing.assert_allclose(committee.energies, [3.0, 5.0])
    np.testing.assert_allclose(committee.energy_spreads, np.std(energies, axis=0, ddof=1))
    qm, mm, charges = committee.seeds(committee.weights)
    torch.testing.assert_close(qm, result.qm_gradients.mean(dim=0))
    torch.testing.assert_close(mm, result.mm_gradients.mean(dim=0))
    torch.testing.assert_close(charges, result.charge_gradients.mean(dim=0))


def test_one_member_has_no_spread():
    committee = combine(result_of([[1.0, 2.0]]), CommitteeSettings())
    np.testing.assert_allclose(committee.energies, [1.0, 2.0])
    assert committee.energy_spreads is None


def test_the_switch_of_the_fading_and_its_slope():
    fade = Fade(0.5, 1.5)
    spreads, step = np.linspace(0.0, 2.0, 81), 1e-5
    scales, slopes = fade.scale(spreads)
    numerical = (fade.scale(spreads + step)[0] - fade.scale(spreads - step)[0]) / (2.0 * step)
    np.testing.assert_allclose(slopes, numerical, rtol=0.0, atol=1e-8)
    assert (scales[spreads <= 0.5] == 1.0).all()
    assert (scales[spreads >= 1.5] == 0.0).all()
    assert fade.scale(np.array(1.0))[0] == pytest.approx(0.5)


@pytest.mark.parametrize("offset", [0.0, -400.0])
@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("width", [0.6, 0.8, 1.0, 5.0])
def test_weights_are_derivatives_of_the_faded_energies(offset, include, width):
    settings = CommitteeSettings(offset, include, Fade(0.5 * width, width))
    start = torch.tensor([[0.3], [0.9], [-0.4]], dtype=torch.float64) + offset

    def combined(energies):
        zeros = torch.zeros(3, 1, 1)
        return combine(CommitteeResult(energies, zeros, StoredDerivatives(zeros, zeros)), settings)

    committee = combined(start)
    for row in range(3):
        shift = torch.zeros_like(start)
        shift[row] = 1e-5
        ahead, behind = combined(start + shift), combined(start - shift)
        numerical = (ahead.energies - behind.energies) / 2e-5
        np.testing.assert_allclose(numerical, committee.weights[row], atol=1e-6, rtol=0.0)
        numerical = (ahead.member_energies - behind.member_energies) / 2e-5
        np.testing.assert_allclose(numerical, committee.member_weights[:, row], atol=1e-6, rtol=0.0)
    # The members average to what is given.
    np.testing.assert_allclose(committee.member_energies.mean(axis=0), committee.energies)
    np.testing.assert_allclose(committee.member_weights.mean(axis=0), committee.weights, atol=1e-14)


def test_fading_leaves_the_constant_part():
    energies = [[-400.0 + 3.0], [-400.0 - 3.0], [-400.0 + 0.6]]
    full = combine(result_of(energies), CommitteeSettings(-400.0, True, Fade(0.1, 0.2)))
    np.testing.assert_array_equal(full.energies, [-400.0])
    np.testing.assert_array_equal(full.scales, [0.0])
    assert not full.weights.any()
    without = combine(result_of(energies), CommitteeSettings(-400.0, False, Fade(0.1, 0.2)))
    np.testing.assert_array_equal(without.energies, [0.0])


def test_equal_members_fade_without_a_singularity():
    committee = combine(result_of([[1.0], [1.0]]), CommitteeSettings(fade=Fade(0.1, 0.2)))
    np.testing.assert_allclose(committee.weights, 0.5)
    np.testing.assert_array_equal(committee.energies, [1.0])


def test_a_single_member_cannot_fade_or_be_a_committee():
    for settings in (CommitteeSettings(fade=Fade(1.0, 2.0)), CommitteeSettings(extras=True)):
        with pytest.raises(ConfigError, match="two or more"):
            settings.check(1)
        settings.check(2)


def test_force_spread_by_hand():
    """The larger of the spreads on QM atoms and near sites, each the root of summed variances."""
    result = result_of([[0.0, 0.0]] * 3)
    for scale_mm in (1e-3, 10.0):
        mm_gradients = scale_mm * result.mm_gradients
        given = CommitteeResult(
            result.energies, result.qm_gradients, StoredDerivatives(mm_gradients, result.charge_gradients)
        )
        each = [
            np.sqrt(np.var(x.numpy(), axis=0, ddof=1).sum(axis=-1)).max(axis=1)
            for x in (given.qm_gradients, mm_gradients)
        ]
        assert (each[0] > each[1]).all() == (scale_mm < 1.0)
        np.testing.assert_allclose(force_spreads(given), np.maximum(*each))


def test_only_near_sites_count_in_the_force_spread():
    result = result_of([[0.0, 0.0]] * 3)
    asked = []

    class Near:
        def __init__(self, count):
            self.count = count

        def near(self, distance, weights):
            asked.append(distance)
            return torch.einsum("mc,cbkx->mbkx", weights, 10.0 * result.mm_gradients[:, :, : self.count])

    gradients = result.qm_gradients, 10.0 * result.mm_gradients[:, :, :2]
    each = [np.sqrt(np.var(x.numpy(), axis=0, ddof=1).sum(axis=-1)).max(axis=1) for x in gradients]
    for count, expected in ((2, np.maximum(*each)), (0, each[0])):
        found = force_spreads(CommitteeResult(result.energies, result.qm_gradients, Near(count)))
        np.testing.assert_allclose(found, expected)
    assert asked == [NEAR, NEAR]
    assert force_spreads(result_of([[0.0, 0.0]])) is None


def test_members_for_ipi_have_the_sign_and_orientation_of_the_socket():
    generator = np.random.default_rng(1)
    energies, forces, strains = (generator.normal(size=shape) for shape in ((2,), (2, 4, 3), (2, 3, 3)))
    shapes = ((2, 5), (2, 5, 4, 3), (2, 5, 3, 3))
    deviations = MemberDeviations(*(generator.normal(size=shape) for shape in shapes))
    extras = deviations.extras(energies, forces, strains)
    for frame, member in np.ndindex(2, 5):
        assert extras["committee_pot"][frame, member] == energies[frame] + deviations.energies[frame, member]
        expected = forces[frame] + deviations.forces[frame, member]
        np.testing.assert_array_equal(extras["committee_force"][frame, member], expected)
        strain = strains[frame] + deviations.strain_derivatives[frame, member]
        np.testing.assert_array_equal(extras["committee_virial"][frame, member], transpose(-strain[None])[0])
    assert (
        not MemberDeviations(deviations.energies, deviations.forces, None)
        .extras(energies, forces, None)["committee_virial"]
        .any()
    )
