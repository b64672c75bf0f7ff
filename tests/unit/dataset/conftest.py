import numpy as np
import pytest

from deltaqmmm.dataset import Dataset, EnergyLabel, Failure, LabelledFrame, LabelSettings, Source, SystemTable

SETTINGS = LabelSettings(
    embedding={"kind": "cutoff", "inner_angstrom": 12.0},
    level={"functional": "pbe0", "basis": "def2-svp"},
    baseline={"model": "dftb3", "hubbard_derivatives": {"H": -0.1857}},
)
SYSTEM = SystemTable(
    qm_symbols=("O", "H", "H"),
    qm_charge=0,
    qm_atoms=np.arange(3),
    site_types=("WAT:O", "WAT:H1", "WAT:H2", "WAT:EPW") * 4,
    site_symbols=("O", "H", "H", "") * 4,
    site_charges=np.array([-0.5, 0.5, 0.5, -0.5] * 4),
)


def make_frame(number, n_sites):
    rng = np.random.default_rng(number)

    def label():
        return EnergyLabel(
            float(rng.normal()), rng.normal(size=(3, 3)), rng.normal(size=(n_sites, 3)), rng.normal(size=n_sites)
        )

    return LabelledFrame(
        identity=f"{number:032x}",
        source=Source("run_300K.extxyz", number, 300.0, 8, number % 8, 20 * number),
        qm_positions=rng.normal(size=(3, 3)),
        mm_positions=rng.normal(scale=30.0, size=(n_sites, 3)).astype(np.float32).astype(np.float64),
        mm_charges=rng.normal(size=n_sites),
        mm_sites=rng.integers(16, size=n_sites),
        reference=label(),
        baseline=label(),
        baseline_charges=rng.normal(size=3),
        scf_cycles=11,
        seconds=20.5,
    )


@pytest.fixture
def dataset():
    """Three frames with 5, 0 and 9 sites, and a failure."""
    frames = tuple(make_frame(number, n_sites) for number, n_sites in enumerate((5, 0, 9)))
    failure = Failure("f" * 32, Source("other.pdb", 7), "the SCF did not converge (µ)")
    return Dataset(SYSTEM, SETTINGS, frames, (failure,), {"pyscf": "2.14.0"})
