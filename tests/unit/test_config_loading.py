from dataclasses import replace

import pytest
import torch

from deltaqmmm.config import read_config
from deltaqmmm.config.loading import (
    cutoff_settings,
    dftb_settings,
    load_potential,
    nonbonded_settings,
    openmm_settings,
    torch_device,
)
from deltaqmmm.config.parts import check_parameters, dftbplus_settings
from deltaqmmm.errors import ConfigError, TopologyError
from deltaqmmm.units import ANGSTROM, KELVIN


def config_of(data_folder, tmp_path, extra="", name="uracil_droplet", qm='residues = ["URA"]'):
    systems = data_folder / "mm_systems"
    file = tmp_path / "config.toml"
    file.write_text(
        f'[system]\ntopology = "{systems / name}.prmtop"\ncoordinates = "{systems / name}.rst7"\n[qm]\n{qm}\n{extra}'
    )
    return read_config(file)


def test_the_units_of_the_file_end_here(data_folder, tmp_path):
    config = config_of(
        data_folder,
        tmp_path,
        """
[dftb]
electronic_temperature_kelvin = 1500
[embedding]
inner_angstrom = 9
outer_angstrom = 11
charge_blur_angstrom = 0.5
[mm]
cutoff_angstrom = 7
""",
    )
    assert dftb_settings(config).electronic_temperature == pytest.approx(1500 * KELVIN)
    assert dftb_settings(config).damping_exponent == 4.0
    embedding = cutoff_settings(config)
    assert (embedding.inner, embedding.outer) == (pytest.approx(9 * ANGSTROM), pytest.approx(11 * ANGSTROM))
    assert embedding.blur_width == pytest.approx(0.5 * ANGSTROM)
    nonbonded = nonbonded_settings(config)
    assert nonbonded.cutoff == pytest.approx(7 * ANGSTROM)
    assert nonbonded.switch_distance == pytest.approx(6 * ANGSTROM)


def test_zero_stands_for_nothing(data_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("deltaqmmm.config.threads.available_cores", lambda: 5)
    config = config_of(
        data_folder, tmp_path, "[dftb]\nhydrogen_damping_exponent = 0\n[mm]\nswitch_angstrom = 0\nthreads = 0\n"
    )
    assert dftb_settings(config).damping_exponent is None
    assert nonbonded_settings(config).switch_distance is None
    assert openmm_settings(config).threads == 4


def test_ewald_tolerance_is_tighter_with_a_virial(data_folder, tmp_path):
    assert nonbonded_settings(config_of(data_folder, tmp_path, "")).ewald_tolerance == 5e-5
    assert nonbonded_settings(config_of(data_folder, tmp_path, "[mm]\nvirial = true\n")).ewald_tolerance == 1e-5
    text = "[mm]\nvirial = true\newald_tolerance = 1e-4\n"
    assert nonbonded_settings(config_of(data_folder, tmp_path, text)).ewald_tolerance == 1e-4


def test_mm_threads_follow_those_of_the_driver(data_folder, tmp_path):
    config = config_of(data_folder, tmp_path, "[driver]\nthreads = 3\n")
    assert openmm_settings(config).threads == 3
    assert openmm_settings(replace(config, mm=replace(config.mm, threads=2))).threads == 2


def test_no_cutoff(data_folder, tmp_path):
    assert cutoff_settings(config_of(data_folder, tmp_path, '[embedding]\nkind = "all"\n')).inner is None


def test_no_cutoff_in_a_periodic_system_is_refused(data_folder, tmp_path):
    config = config_of(
        data_folder, tmp_path, '[embedding]\nkind = "all"\n[mm]\ncutoff_angstrom = 7\n', name="uracil_box"
    )
    with pytest.raises(ConfigError, match='kind = "all" needs an isolated system'):
        load_potential(config)


def test_gromacs_without_coordinates_is_refused(data_folder, tmp_path):
    """Without its .gro a GROMACS box would silently become an isolated system."""
    topology = data_folder / "mm_systems" / "uracil_box.top"
    (tmp_path / "config.toml").write_text(f'[system]\ntopology = "{topology}"\n[qm]\nresidues = ["URA"]\n')
    with pytest.raises(ConfigError, match=r"GROMACS topology, which holds no box: give the \.gro file"):
        load_potential(read_config(tmp_path / "config.toml"))


def test_rigid_water_is_refused(data_folder, tmp_path):
    config = config_of(data_folder, tmp_path, name="rigid_water", qm='atoms = "0-2"')
    with pytest.raises(TopologyError, match="no rigid molecules"):
        load_potential(config)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device was found: nothing to refuse")
def test_a_cuda_device_that_is_not_there(data_folder, tmp_path):
    config = config_of(data_folder, tmp_path, '[dftb]\ndevice = "cuda"\n')
    with pytest.raises(ConfigError, match="finds 0 CUDA devices"):
        torch_device(config)
    assert torch_device(replace(config, dftb=replace(config.dftb, device="auto"))).type == "cpu"


@pytest.mark.parametrize(("workers", "expected"), [(0, (4, 1)), (2, (2, 2)), (8, (8, 1))])
def test_workers_of_dftbplus_share_the_cores_of_the_qm_side(data_folder, tmp_path, workers, expected):
    config = config_of(data_folder, tmp_path, f'[dftb]\nengine = "dftb+"\nthreads = 4\nworkers = {workers}\n')
    settings = dftbplus_settings(config)
    assert (settings.workers, settings.threads) == expected
    assert settings.timeout == 600.0


def test_a_parameter_set_that_is_nowhere(data_folder, tmp_path, monkeypatch):
    for name in ("mine-1", "other-2"):
        (tmp_path / "sets" / name).mkdir(parents=True)
        (tmp_path / "sets" / name / "H-H.skf").touch()
    (tmp_path / "sets" / "no-set").mkdir()
    monkeypatch.setenv("DFTB_PREFIX", str(tmp_path / "sets"))
    with pytest.raises(ConfigError) as caught:
        load_potential(config_of(data_folder, tmp_path, '[dftb]\nparameters = "mine"\n'))
    message = str(caught.value)
    assert '[dftb] parameters = "mine": no Slater-Koster set of this name was found in' in message
    assert all(name in message.partition("There are ")[2] for name in ("mine-1", "other-2"))
    assert "take one of them, or name the folder of its files as parameter_folder" in message
    assert "no-set" not in message
    # A set that is there and lacks a pair of elements is another matter.
    check_parameters(config_of(data_folder, tmp_path, '[dftb]\nparameters = "mine-1"\n'))
