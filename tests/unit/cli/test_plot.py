"""`deltaqmmm plot` on folders that are written here: what is drawn, what is printed, what is refused."""

import shutil
import sys

import numpy as np
import pytest
from matplotlib.image import imread

from deltaqmmm.analysis.records import Record, Series, distances
from deltaqmmm.cli import plot_plumed
from deltaqmmm.cli.main import main
from deltaqmmm.cli.plot_bias import of_plumed
from deltaqmmm.cli.plot_exchange import at_temperature, count_swaps, read_swaps
from deltaqmmm.cli.plot_figures import figures
from deltaqmmm.cli.plot_folder import find
from deltaqmmm.cli.plot_plumed import find_action, free_energies, reweighted
from deltaqmmm.errors import InputError
from deltaqmmm.units import KELVIN, KJ_PER_MOL

SYSTEM = """\
<system{prefix}><initialize nbeads='2'><file mode='xyz'> init.xyz </file></initialize>
<ensemble><temperature units='kelvin'> {temperature} </temperature></ensemble>
<motion mode='dynamics'><dynamics mode='nvt'><timestep units='femtosecond'> 0.5 </timestep></dynamics></motion></system>
"""
INPUT = """\
<simulation><output prefix='run'>
<properties stride='10' filename='out'> [ step, time, conserved, temperature, potential, kinetic_cv ] </properties>
<trajectory stride='20' filename='pos'> positions </trajectory>
<trajectory stride='20' filename='charges' extra_type='qm_charges'> extras </trajectory>
<trajectory stride='20' filename='mu' extra_type='qm_dipole'> extras </trajectory>
<trajectory stride='20' filename='spread' extra_type='committee_energy_spread'> extras </trajectory>
</output>{systems}{more}</simulation>
"""
N = 200


def write_system(folder, prefix="", beads=2, temperature=300.0, seed=1):
    """The outputs of a system of three atoms, 200 rows."""
    rng = np.random.default_rng(seed)
    label = f"{prefix}_" if prefix else ""
    names = ["step", "time{picosecond}", "conserved", "temperature{kelvin}", "potential{electronvolt}", "kinetic_cv(H)"]
    head = "".join(f"# column   {k + 1}     --> {name} : What it is.\n" for k, name in enumerate(names))
    rows = [
        [
            10 * k,
            0.005 * k,
            -5.0 + 1e-5 * k,
            temperature + rng.normal(),
            -100.0 + rng.normal(),
            0.02 + 1e-3 * rng.normal(),
        ]
        for k in range(N)
    ]
    (folder / f"{label}run.out").write_text(head + "".join(" ".join(f"{x:.8e}" for x in row) + "\n" for row in rows))
    for bead in range(beads):
        frames, charges, dipoles, spreads = "", "", "", ""
        for step in range(0, 10 * N, 20):
            x = 9.5 + 0.001 * step / 20 + 0.01 * bead
            frames += f"3\n# CELL(abcABC): 10.0 10.0 10.0 90.0 90.0 90.0  Step: {step:10d}  Bead: {bead} "
            frames += f"positions{{angstrom}}  cell{{angstrom}}\nO 0.5 0 0\nH {x} 0 0\nH 0.5 1.0 0.0\n"
            charges += f" #EXTRAS(qm_charges)# Step: {step:10d} \n -0.8 0.4 {0.4 + 0.01 * bead}\n"
            dipoles += f" #EXTRAS(qm_dipole)# Step: {step:10d} \n 0.3 0.4 {0.1 * bead}\n"
            spreads += f" #EXTRAS(committee_energy_spread)# Step: {step:10d} \n {0.001 * (1 + bead)}\n"
        (folder / f"{label}run.pos_{bead}.xyz").write_text(frames)
        for name, text in (("charges", charges), ("mu", dipoles), ("spread", spreads)):
            (folder / f"{label}run.{name}_{bead}").write_text(text)


@pytest.fixture
def folder(tmp_path):
    """A run of one system."""
    (tmp_path / "input.xml").write_text(INPUT.format(systems=SYSTEM.format(prefix="", temperature=300), more=""))
    write_system(tmp_path)
    return tmp_path


def drawn(folder, *options):
    """Run the command and give the names of the figures."""
    assert main(["plot", str(folder), *options]) == 0
    return {file.name: imread(file) for file in (folder / "figures").iterdir()}


def test_every_theme_that_is_there(folder, capsys):
    images = drawn(folder, "--distance", "0-1")
    themes = {"energies", "temperature", "quantum_kinetic", "distances", "qm", "committee"}
    assert set(images) == {f"{theme}.png" for theme in themes}
    for image in images.values():
        # 16 cm at 200 dpi, and something on it.
        assert abs(image.shape[1] - 1260) < 5
        assert 0.002 < (image[..., :3].min(axis=2) < 0.9).mean() < 0.5
    said = capsys.readouterr().out
    assert "temperature" in said
    assert "energies.png" in said


def test_the_table_has_means_errors_and_the_drift(folder, capsys):
    pytest.importorskip("pymbar")
    assert main(["plot", str(folder), "--skip", "0.2"]) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")}
    temperature, potential = lines["temperature"], lines["potential"]
    assert abs(float(temperature[1]) - 300.0) < 0.5
    # 160 independent values of the variance 1.
    assert 0.04 < float(temperature[3]) < 0.2
    assert temperature[4] == "K"
    # Electronvolt in, kJ/mol out.
    assert float(potential[1]) == pytest.approx(-100.0 * 96.485, rel=1e-2)
    assert float(lines["qm_dipole"][1]) == pytest.approx(2.5417 * (0.5 + np.sqrt(0.26)) / 2, rel=1e-3)
    assert float(lines["committee_energy_spread"][1]) == pytest.approx(1.5e-3 * 2625.5, rel=1e-3)
    # 1e-5 hartree in 5 fs, of three atoms.
    slope = 1e-5 / 0.005 / KJ_PER_MOL
    drift = next(line.split() for name, line in ((k, " ".join(v)) for k, v in lines.items()) if name == "drift")
    assert float(drift[3]) == pytest.approx(slope, rel=1e-2)
    assert float(drift[7]) == pytest.approx(slope / 3, rel=2e-2)


def test_without_pymbar_it_draws_and_says_what_is_missing(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pymbar", None)
    monkeypatch.setitem(sys.modules, "pymbar.timeseries", None)
    assert "energies.png" in drawn(folder)
    said = capsys.readouterr().out
    assert "pip install '.[analysis]'" in said
    assert "+-" not in next(line for line in said.splitlines() if "temperature" in line)


def test_distances_are_those_of_the_nearest_images(folder):
    beads = distances(find(folder, "input.xml").records[0], (0, 1))
    assert len(beads) == 2
    # O at 0.5, H at 9.5 and further in a cell of 10 angstrom.
    np.testing.assert_allclose(beads[0].values[[0, -1]], [1.0, 1.0 - 0.099], atol=1e-12)
    np.testing.assert_allclose(beads[1].values[0], 0.99, atol=1e-12)
    np.testing.assert_allclose(beads[0].times[:2], [0.0, 0.01])


def test_several_systems_and_the_walks_of_replica_exchange(tmp_path, capsys):
    systems = "".join(SYSTEM.format(prefix=f" prefix='T{k}'", temperature=300 + 20 * k) for k in range(3))
    remd = "<smotion mode='remd'><remd><stride> 20 </stride></remd></smotion>"
    (tmp_path / "input.xml").write_text(INPUT.format(systems=systems, more=remd))
    for k in range(3):
        write_system(tmp_path, f"T{k}", temperature=300 + 20 * k, seed=k)
    (tmp_path / "run.remd_idx").write_text("    100     1     0     2\n    400     1     2     0\n    60")
    images = drawn(tmp_path, "--distance", "0-2")
    assert {"walks.png", "energies.png", "distances.png", "T0_qm.png", "T2_qm.png"} <= set(images)
    said = capsys.readouterr().out
    assert [line.split(":")[0] for line in said.splitlines() if ", means from" in line] == ["T0", "T1", "T2"]
    found = find(tmp_path, "input.xml")
    assert found.ladder == (300.0, 320.0, 340.0)
    steps, places = read_swaps(found.swaps)
    assert list(steps) == [100, 400]
    assert places.tolist() == [[1, 0, 2], [1, 2, 0]]
    share = figures(found, [])[0]["walks"].axes[1].images[0].get_array()
    # Replica 0: 100 steps with the first temperature, then the second, to step 1990.
    np.testing.assert_allclose(share[:, 0], [100 / 1990, 1890 / 1990, 0.0], atol=1e-12)
    np.testing.assert_allclose(share[:, 2], [1590 / 1990, 0.0, 400 / 1990], atol=1e-12)


def test_means_and_swaps_of_replica_exchange_are_by_temperature(tmp_path, capsys):
    systems = "".join(SYSTEM.format(prefix=f" prefix='{k}'", temperature=300 + 50 * k) for k in range(2))
    remd = "<smotion mode='remd'><remd><stride> 20 </stride></remd></smotion>"
    text = INPUT.format(systems=systems, more=remd).replace("potential,", "ensemble_temperature, potential,")
    (tmp_path / "input.xml").write_text(text)
    # The replicas trade places at step 1000, and back at 1500.
    steps = np.arange(0, 2000, 10)
    traded = (steps > 1000) & (steps <= 1500)
    for k in range(2):
        held = np.where(traded, 350.0 - 50.0 * k, 300.0 + 50.0 * k)
        names = ["step", "temperature{kelvin}", "ensemble_temperature{kelvin}"]
        head = "".join(f"# column   {n + 1}     --> {name} : What.\n" for n, name in enumerate(names))
        rows = "".join(f"{step} {hot + (1 if k else -1):.3f} {hot}\n" for step, hot in zip(steps, held, strict=True))
        (tmp_path / f"{k}_run.out").write_text(head + rows)
    (tmp_path / "run.remd_idx").write_text("   1000     1     0\n   1500     0     1\n")
    assert main(["plot", str(tmp_path), "--skip", "0"]) == 0
    said = capsys.readouterr().out.splitlines()
    means = [float(line.split()[1]) for line in said if line.split()[0] == "temperature"]
    # Replica 0 is one kelvin too cold, replica 1 too hot; 50 of 200 rows are traded.
    assert means == pytest.approx([300.0 - 0.5, 350.0 + 0.5])
    share = next(line.split() for line in said if line.startswith("  300 - 350 K"))
    assert float(share[4]) == pytest.approx(2 / (1990 / 20), abs=1e-3)
    assert "replica 0" in {
        text.get_text() for text in figures(find(tmp_path, "input.xml"), [])[0]["walks"].legends[0].get_texts()
    }


def test_before_the_first_swap(tmp_path, capsys):
    systems = "".join(SYSTEM.format(prefix=f" prefix='T{k}'", temperature=300 + 20 * k) for k in range(2))
    remd = "<smotion mode='remd'><remd><stride> 20 </stride></remd></smotion>"
    (tmp_path / "input.xml").write_text(INPUT.format(systems=systems, more=remd))
    for k in range(2):
        write_system(tmp_path, f"T{k}", temperature=300 + 20 * k, seed=k)
    (tmp_path / "run.remd_idx").write_text("")
    assert "walks.png" in drawn(tmp_path)
    said = capsys.readouterr().out
    assert "(0 swaps)" in said
    assert "write ensemble_temperature{kelvin}" in said


def test_swaps_are_counted_where_two_trade_places():
    steps = np.array([1, 2, 3, 4])
    places = np.array([[1, 0, 2, 3], [0, 1, 3, 2], [1, 3, 0, 2], [1, 3, 2, 0]])
    # 0-1; both pairs; four go round; the ends of 0 and 2 are no neighbours.
    found = count_swaps(steps, places, 0)
    assert found.accepted.tolist() == [2, 0, 1]
    assert found.unclear == 1
    assert count_swaps(steps, places, 2).accepted.tolist() == [1, 0, 1]


def test_swaps_that_meet_in_a_step_are_shared_out():
    # As i-PI tries them: all pairs of replicas one after the other, each with the probability 1/stride.
    rng, stride, n_steps, share = np.random.default_rng(1), 5, 30_000, {1: 0.45, 2: 0.15}
    place, rows, true = [0, 1, 2], [], np.zeros(2)
    for _ in range(n_steps):
        for i, j in ((1, 0), (2, 0), (2, 1)):
            low, high = sorted((place[i], place[j]))
            if rng.random() < share[high - low] / stride:
                place[i], place[j] = place[j], place[i]
                if high == low + 1:
                    true[low] += 1
        rows.append(tuple(place))
    found = count_swaps(np.arange(n_steps), np.array(rows), 0)
    # 2700 swaps: the counted ones alone are a tenth too few.
    np.testing.assert_allclose(found.estimated, true, rtol=0.03)
    assert (found.accepted < 0.92 * true).all()
    none = count_swaps(np.array([3]), np.array([[1, 2, 0]]), 0)
    assert none.unclear == 1
    assert none.estimated.tolist() == [0.0, 0.0]


def test_a_temperature_takes_rows_of_other_strides_where_it_is_known():
    held = Series(np.arange(0.0, 1.0, 0.1), np.where(np.arange(10) < 5, 300.0, 400.0))
    one = Record("0", 0.01, None, [], {"ensemble_temperature": held})
    values = Series(np.arange(0.0, 1.0, 0.05), np.arange(20.0))
    ladder = np.array([300.0, 400.0])
    assert at_temperature([one], [values], ladder, 0).values.tolist() == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert at_temperature([one], [values], ladder, 1).values.tolist() == [10.0, 12.0, 14.0, 16.0, 18.0]


def test_a_run_that_is_going_on(folder):
    for file in folder.glob("run.*"):
        text = file.read_text()
        file.write_text(text[: len(text) // 2 + 7])
    assert "energies.png" in drawn(folder)
    assert len(find(folder, "input.xml").records[0].properties["temperature"].times) < N


def test_it_goes_by_the_restart_where_there_is_no_input(folder):
    (folder / "input.xml").rename(folder / "RESTART")
    assert "energies.png" in drawn(folder)


def test_figures_elsewhere_and_quiet(folder, tmp_path, capsys):
    assert main(["plot", str(folder), "-q", "-o", str(tmp_path / "a" / "b")]) == 0
    assert (tmp_path / "a" / "b" / "energies.png").is_file()
    assert not (folder / "figures").exists()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (lambda folder: shutil.rmtree(folder), (), "no such folder"),
        (lambda folder: (folder / "input.xml").unlink(), (), "neither input.xml nor RESTART"),
        (
            lambda folder: [file.unlink() for file in folder.glob("run.*")],
            (),
            "Looked for what input.xml writes: run.out",
        ),
        (lambda folder: shutil.copy(folder / "input.xml", folder / "RESTART"), ("--input", "no.xml"), "no such file"),
        (lambda folder: None, ("--skip", "50"), "--skip 50: nothing is left for means: what is written ends at 0.995"),
        (lambda folder: None, ("--distance", "0-3"), "two different atoms from 0 to 2"),
        (lambda folder: None, ("--distance", "1-1"), "two different atoms"),
        (
            lambda folder: [file.unlink() for file in folder.glob("run.pos*")],
            ("--distance", "0-1"),
            "no positions are written",
        ),
        (lambda folder: (folder / "run.out").write_text("1 2 3\n"), (), "no header"),
        (lambda folder: (folder / "input.xml").write_text("<simulation>"), (), "no valid XML"),
    ],
)
def test_bad_input_is_one_clear_error(folder, capsys, spoil, options, message):
    spoil(folder)
    assert main(["plot", str(folder), *options]) == 1
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert not (folder / "figures").exists()


def test_only_the_beginning_is_nothing_to_draw(tmp_path, capsys):
    (tmp_path / "input.xml").write_text(INPUT.format(systems=SYSTEM.format(prefix="", temperature=300), more=""))
    (tmp_path / "run.out").write_text("# column   1     --> step : The step.\n")
    assert main(["plot", str(tmp_path)]) == 1
    assert "nothing to draw yet" in capsys.readouterr().err


def test_a_time_that_is_no_number_is_said_clearly(folder, capsys):
    with pytest.raises(SystemExit):
        main(["plot", str(folder), "--skip", "x"])
    assert "x: a time in picoseconds is needed" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--distance", "4"], ["--distance", "a-b"], ["--skip", "-1"]])
def test_wrong_words_are_usage_errors(folder, words):
    with pytest.raises(SystemExit) as ended:
        main(["plot", str(folder), *words])
    assert ended.value.code == 2


# ------------------------------------------------------------------------------------------------- free energies

METAD = """\
UNITS LENGTH=A ENERGY=kcal/mol   # FILE=WRONG
d: DISTANCE ATOMS=1,2
metad: METAD ...
  ARG=d SIGMA=0.05
  FILE=HILLS.0
...
PRINT ARG=d,metad.bias FILE=COLVAR STRIDE=10
"""


def test_actions_of_plumed_are_found(tmp_path):
    file = tmp_path / "plumed.dat"
    file.write_text(METAD)
    metad = find_action(file, "METAD")
    assert (metad.label, metad.words["ARG"], metad.words["FILE"]) == ("metad", "d", "HILLS.0")
    assert find_action(file, "PRINT").words["FILE"] == "COLVAR"
    assert find_action(file, "OPES_METAD") is None
    file.write_text("METAD ARG=d LABEL=m FILE=H\n")
    assert find_action(file, "METAD").label == "m"


def hills(n, centre=1.5, height=0.5, factor=5.0):
    head = "#! FIELDS time d sigma_d height biasf\n#! SET multivariate false\n#! SET kerneltype stretched-gaussian\n"
    return head + "".join(f" {k} {centre} 0.05 {height} {factor}\n" for k in range(n))


def test_hills_are_added_up_by_plumed(tmp_path):
    if shutil.which("plumed") is None and not (plot_plumed.Path(sys.executable).with_name("plumed")).is_file():
        pytest.skip("the program plumed is not there")
    file = tmp_path / "plumed.dat"
    file.write_text(METAD)
    (tmp_path / "HILLS.0").write_text(hills(10) + " 10 1.5 0.05 0")
    variable, profiles = free_energies(tmp_path / "HILLS.0", file)
    assert variable == "d"
    assert list(profiles)[-1] == "100 % of 10 hills"
    for (x, y), n in zip(profiles.values(), (2, 4, 6, 8, 10), strict=True):
        # HILLS holds the heights scaled by f / (f - 1), so the sum is minus the free energy: a well as deep as the
        # hills.
        depth = y.max() - y[np.argmin(np.abs(x - 1.5))]
        assert depth == pytest.approx(n * 0.5 * 4.184, rel=2e-2)
    (tmp_path / "COLVAR").write_text("")
    (tmp_path / "HILLS.0").write_text(hills(2))
    with pytest.raises(InputError, match="at least 5"):
        free_energies(tmp_path / "HILLS.0", file)


def plumed_run(folder, *names):
    """Say in the input that PLUMED takes part."""
    more = "".join(f"<ffplumed name='{name}'><plumed_dat> {name} </plumed_dat></ffplumed>" for name in names)
    system = SYSTEM.format(prefix="", temperature=300)
    (folder / "input.xml").write_text(INPUT.format(systems=system, more=more))


@pytest.mark.parametrize("text", ["", "#! FIELDS time d sigma_d height biasf\n", None])
def test_without_a_hill_the_variable_is_drawn(folder, text):
    plumed_run(folder, "plumed.dat")
    (folder / "plumed.dat").write_text(METAD)
    (folder / "COLVAR").write_text("#! FIELDS time d metad.bias\n 1.0 1.5 0.0\n 11.0 1.6 0.0\n 21.0 1")
    if text is not None:
        (folder / "HILLS.0").write_text(text)
    drawn, notes = of_plumed(find(folder, "input.xml"), None)
    assert list(drawn) == ["variable"]
    line = drawn["variable"].axes[0].lines[0]
    np.testing.assert_allclose(line.get_xydata(), [[0.0005, 1.5], [0.0055, 1.6]])
    assert len(notes) == 1
    assert "no hills yet" in notes[0]


def test_windows_of_umbrella_sampling(folder):
    plumed_run(folder, "a.dat", "b.dat")
    for number, name in enumerate("ab"):
        (folder / f"{name}.dat").write_text(f"u: RESTRAINT ARG=d AT={number} KAPPA=9\nPRINT ARG=d FILE=COLVAR_{name}\n")
        rows = "".join(f"{k} {99 if k < 100 else number + 0.01 * (k % 10)}\n" for k in range(1, 501))
        (folder / f"COLVAR_{name}").write_text("#! FIELDS time d\n" + rows)
    drawn, notes = of_plumed(find(folder, "input.xml"), None)
    assert list(drawn) == ["windows"]
    assert notes == []
    # The first fifth, far away, is left out.
    assert drawn["windows"].axes[0].get_xlim()[1] < 2.0
    assert {text.get_text() for text in drawn["windows"].legends[0].get_texts()} == {"window at 0", "window at 1"}


def test_without_plumed_the_other_figures_are_drawn(folder, capsys, monkeypatch):
    more = "<ffplumed name='p'><plumed_dat> plumed.dat </plumed_dat></ffplumed>"
    system = SYSTEM.format(prefix="", temperature=300)
    (folder / "input.xml").write_text(INPUT.format(systems=system, more=more))
    (folder / "plumed.dat").write_text(METAD)
    (folder / "HILLS.0").write_text(hills(10))
    monkeypatch.setattr(plot_plumed.shutil, "which", lambda name: None)
    monkeypatch.setattr(plot_plumed.sys, "executable", str(folder / "python"))
    assert "energies.png" in drawn(folder)
    assert "which is not on the PATH: install PLUMED" in capsys.readouterr().out


def test_reweighting_gives_the_free_energy_back(tmp_path):
    """Samples of a biased harmonic well: x has the variance 1, and of the unbiased well 0.25."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=200000)
    thermal = 300.0 * KELVIN / KJ_PER_MOL
    free, biased = 0.5 * thermal * x**2 / 0.25, 0.5 * thermal * x**2
    file = tmp_path / "plumed.dat"
    file.write_text("o: OPES_METAD ARG=d BARRIER=20\nPRINT ARG=d,o.bias,w.bias FILE=COLVAR\n")
    rows = "".join(f"{k} {a:.6f} {b:.6f} 1.0\n" for k, (a, b) in enumerate(zip(x, biased - free, strict=True)))
    (tmp_path / "COLVAR").write_text("#! FIELDS time d o.bias w.bias\n" + rows + "200000 0.1")
    profiles = reweighted(tmp_path / "COLVAR", file, "d", 300.0)
    middle, energy = list(profiles.values())[-1]
    near = np.abs(middle) < 1.0
    np.testing.assert_allclose(energy[near], 0.5 * thermal * middle[near] ** 2 / 0.25, atol=0.25)
    with pytest.raises(InputError, match=r"no columns e and \*\.bias"):
        reweighted(tmp_path / "COLVAR", file, "e", 300.0)
