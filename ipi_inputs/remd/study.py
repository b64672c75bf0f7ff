"""The numbers and the figure of this case's README: distributions and acceptance of replica exchange.

    python study.py [FOLDER]

Malonaldehyde in the gas phase (../malonaldehyde) against plain NVT at the same temperatures; the same with beads, and
uracil in 64 waters (../small), for the acceptance. A second call goes on where it stopped.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.special import erfcinv
from scipy.stats import ks_2samp, kstwo

from deltaqmmm.analysis.figures import COLOURS, legend, panels, save
from deltaqmmm.analysis.outputs import read_properties
from deltaqmmm.analysis.statistics import mean_and_error
from deltaqmmm.cli.main import main as deltaqmmm
from deltaqmmm.cli.plot_exchange import count_swaps, read_swaps
from deltaqmmm.results import FloatArray, IntArray
from deltaqmmm.units import KELVIN, KJ_PER_MOL

HERE = Path(__file__).resolve().parent
MOST_PAIRS = 400


@dataclass(frozen=True)
class Run:
    """What is simulated.

    Attributes:
        system: Folder beside this one.
        source: Which input of the case.
        temperatures: The ladder, kelvin.
        steps: Their number.
        beads: Of the ring polymer.
        plain: Whether it is done without exchange too.
        timestep: Femtoseconds.
        left_out: Part of the run at its beginning that is not looked at.
        stride: Steps between two tries of a pair, on average.
        repeats: How many runs there are, with other random numbers each.
    """

    system: str
    source: str
    temperatures: tuple[float, ...]
    steps: int
    beads: int
    plain: bool
    timestep: float = 0.5
    left_out: float = 0.1
    stride: int = 20
    repeats: int = 1


RUNS = {
    "classical": Run("malonaldehyde", "input.xml", (300.0, 400.0, 530.0), 6000, 1, plain=True, timestep=1.0, repeats=4),
    "beads": Run("malonaldehyde", "beads.xml", (300.0, 340.0, 385.0), 1200, 8, plain=False, stride=5),
    "water": Run("small", "input.xml", (300.0, 320.0, 341.0), 2500, 1, plain=False, left_out=0.4, stride=5),
}


@dataclass(frozen=True)
class Walk:
    """Runs with or without exchange, one after the other.

    Attributes:
        times: Femtoseconds, shape (n,); those of a second run follow on those of the first.
        index: Temperature of each replica, by its number on the ladder, shape (replicas, n).
        energies: Potential energy of each replica, hartree, shape (replicas, n).
        springs: Energy of the springs of the ring polymer, hartree, shape (replicas, n).
        kinetic: Temperature of the velocities of each replica, kelvin, shape (replicas, n).
        swaps: Replica exchange: accepted swaps of neighbours, shape (replicas - 1,).
        tries: Expected number of tries of one pair.
        round_trips: How often a replica came from the lowest temperature to the highest and back.
    """

    times: FloatArray
    index: IntArray
    energies: FloatArray
    springs: FloatArray
    kinetic: FloatArray
    swaps: FloatArray
    tries: float
    round_trips: int

    def at(self, number: int, values: FloatArray) -> FloatArray:
        """What the replica has that is at a temperature, in the order of time."""
        return np.asarray(values.T[number == self.index.T])


def command(*words: object) -> None:
    """Run `deltaqmmm`.

    Raises:
        RuntimeError: It failed; it has said why.
    """
    if deltaqmmm([str(word) for word in words]) != 0:
        raise RuntimeError(f"deltaqmmm {' '.join(str(word) for word in words)} failed")


def simulate(folder: Path, run: Run, *, swaps: bool = True, seed: int = 1, one_by_one: bool = False) -> Path:
    """Make a folder for a run, if it is not there, and run what is left of it.

    Args:
        folder: To make.
        run: What is simulated.
        swaps: Whether replicas are exchanged.
        seed: Of the random numbers.
        one_by_one: Whether the replicas move one after the other, and the run can be repeated.
    """
    if not folder.exists():
        words = ["--temperatures", *run.temperatures, "--steps", run.steps, "--seed", seed, "--quiet"]
        words += ["--timestep", run.timestep]
        words += ["--beads", run.beads] if run.beads > 1 else []
        command("new", "remd", folder, "--system", HERE.parent / run.system, *words)
        file = folder / run.source
        # Frames of some milliseconds: looking for work every 10 ms would take longer than they do.
        text = re.sub(r"<latency>.*?</latency>", "<latency> 1e-3 </latency>", file.read_text())
        text = re.sub(r"<stride>.*?</stride>", f"<stride> {run.stride} </stride>", text)
        if not swaps:
            text = re.sub(r"<smotion.*</smotion>", "", text, flags=re.DOTALL)
        if one_by_one:
            text = text.replace("<simulation ", "<simulation threading='False' ")
            text = re.sub(r"<batch_size>.*?</batch_size>", "", text)
        file.write_text(text)
        if file.name != "input.xml":
            file.replace(folder / "input.xml")
    command("run", folder, "--quiet")
    return folder


def read_walk(folder: Path, run: Run) -> Walk:
    """Read the outputs of all replicas.

    A row of i-PI is written after the swaps of its step: velocities are scaled by then, and `ensemble_temperature` is
    that of the row (tests/integration/inputs/test_remd.py).
    """
    tables = [read_properties(folder / f"{number}_run.out") for number in range(len(run.temperatures))]
    steps = tables[0]["step"]
    kept = steps >= run.left_out * steps[-1]
    ladder = np.array(run.temperatures)
    held = np.array([table["ensemble_temperature"][kept] for table in tables])
    index = np.abs(held[:, :, None] - ladder).argmin(axis=2)
    zeros = np.zeros_like(steps)
    return Walk(
        times=tables[0]["time"][kept],
        index=index,
        energies=np.array([table["potential"][kept] for table in tables]),
        springs=np.array([table.get("spring", zeros)[kept] for table in tables]),
        kinetic=np.array([table["temperature"][kept] for table in tables]),
        swaps=read_swaps_of(folder / "run.remd_idx", len(ladder), run.left_out * steps[-1]),
        tries=float(steps[kept][-1] - steps[kept][0]) / run.stride,
        round_trips=count_round_trips(index, len(ladder) - 1),
    )


def read_swaps_of(file: Path, replicas: int, first: float) -> FloatArray:
    """Accepted swaps of neighbours from a step on, shape (replicas - 1,); none without the file."""
    if not file.exists():
        return np.zeros(replicas - 1)
    steps, places = read_swaps(file)
    return count_swaps(steps, places.reshape(len(steps), replicas), first).estimated


def read_all(folder: Path, run: Run, *, swaps: bool = True) -> Walk:
    """Simulate, if it is not done yet, and read all runs of one kind; the folders after the first are numbered."""
    names = [folder.name, *(f"{folder.name}_{number}" for number in range(1, run.repeats))]
    seeds = range(1 if swaps else 2, 2 * run.repeats + 1, 2)
    places = [folder.with_name(name) for name in names]
    return together(
        [
            read_walk(simulate(place, run, swaps=swaps, seed=seed), run)
            for place, seed in zip(places, seeds, strict=True)
        ]
    )


def together(walks: Sequence[Walk]) -> Walk:
    """Several runs as one."""
    spans = [walk.times[-1] - walk.times[0] for walk in walks]
    starts = np.concatenate([[0.0], np.cumsum(spans)[:-1]])
    return Walk(
        times=np.concatenate([walk.times - walk.times[0] + start for walk, start in zip(walks, starts, strict=True)]),
        index=np.concatenate([walk.index for walk in walks], axis=1),
        energies=np.concatenate([walk.energies for walk in walks], axis=1),
        springs=np.concatenate([walk.springs for walk in walks], axis=1),
        kinetic=np.concatenate([walk.kinetic for walk in walks], axis=1),
        swaps=np.sum([walk.swaps for walk in walks], axis=0),
        tries=sum(walk.tries for walk in walks),
        round_trips=sum(walk.round_trips for walk in walks),
    )


def exponents(
    low: tuple[FloatArray, FloatArray], high: tuple[FloatArray, FloatArray], temperatures: tuple[float, float]
) -> FloatArray:
    """Logarithm of the ratio of probabilities by which i-PI decides on a swap, kinetic energies scaled.

    -(u_a(T_b) + u_b(T_a)) + (u_a(T_a) + u_b(T_b)), with u(T) = (U + S(T)) / kT and the springs of a ring polymer, whose
    frequency is proportional to T: S(T_b) = S(T_a) (T_b / T_a)^2.

    Args:
        low: Potential and spring energies at the first temperature, hartree, of any shapes that go together.
        high: Likewise at the second.
        temperatures: Kelvin.
    """
    a, b = temperatures
    ka, kb = a * KELVIN, b * KELVIN
    here = (low[0] + low[1]) / ka + (high[0] + high[1]) / kb
    there = (low[0] + low[1] * (b / a) ** 2) / kb + (high[0] + high[1] * (a / b) ** 2) / ka
    return np.asarray(here - there)


def expected_from_plain(plain: Walk, number: int, ladder: tuple[float, ...]) -> tuple[float, float]:
    """Acceptance between two temperatures from independent runs at each, with its error by the jackknife over parts."""
    parts = 8

    def acceptance(select: tuple[FloatArray, ...]) -> float:
        low_u, low_s, high_u, high_s = select
        thin = max(1, len(low_u) // MOST_PAIRS)
        low, high = (low_u[::thin, None], low_s[::thin, None]), (high_u[None, ::thin], high_s[None, ::thin])
        return float(np.exp(np.minimum(0.0, exponents(low, high, (ladder[number], ladder[number + 1])))).mean())

    series = [plain.at(number + up, values) for up in (0, 1) for values in (plain.energies, plain.springs)]
    whole = acceptance(tuple(series))
    chunks = [np.array_split(values, parts) for values in series]
    without = [
        acceptance(tuple(np.concatenate(chunk[:part] + chunk[part + 1 :]) for chunk in chunks)) for part in range(parts)
    ]
    return whole, float(np.sqrt((parts - 1) / parts * np.sum((np.array(without) - np.mean(without)) ** 2)))


def expected_from_path(walk: Walk, number: int, ladder: tuple[float, ...]) -> tuple[float, float]:
    """Acceptance between two temperatures from what the replicas had at the same times."""
    low = walk.at(number, walk.energies), walk.at(number, walk.springs)
    high = walk.at(number + 1, walk.energies), walk.at(number + 1, walk.springs)
    chance = np.exp(np.minimum(0.0, exponents(low, high, (ladder[number], ladder[number + 1]))))
    estimate = mean_and_error(chance)
    return estimate.mean, estimate.error


def heat_capacity(share: float, temperatures: tuple[float, float]) -> float:
    """Of the potential energy, in units of k, from the share of swaps accepted.

    For normal distributions of the same width it is erfc(sqrt(C) dT / (2 T)).
    """
    low, high = temperatures
    return float((2.0 * erfcinv(share) * 0.5 * (low + high) / (high - low)) ** 2)


def count_round_trips(index: IntArray, top: int) -> int:
    """How often a replica came from the lowest temperature to the highest and back.

    Args:
        index: Temperature of each replica, by its number on the ladder, shape (replicas, n).
        top: Number of the highest.
    """
    trips = 0
    for row in index:
        ends = row[(row == 0) | (row == top)]
        trips += int(np.sum(np.diff(ends) != 0)) // 2
    return trips


def same_distribution(one: FloatArray, other: FloatArray) -> float:
    """Kolmogorov and Smirnov: probability that two correlated series of one distribution are as far apart as these.

    The distance is that of all rows. The numbers of independent values are those that the share of rows below the
    common median is worth. To take every g-th row instead throws rows away, and the probability hangs on the row that
    is taken first: from 0.02 to 0.99 for runs of 5 ps.
    """
    median = np.median(np.concatenate([one, other]))
    worth = [mean_and_error(np.where(values < median, 1.0, 0.0)).n_effective for values in (one, other)]
    return float(kstwo.sf(ks_2samp(one, other).statistic, max(1, round(worth[0] * worth[1] / sum(worth)))))


def compare(walk: Walk, plain: Walk, number: int) -> dict[str, float]:
    """Temperatures of the velocities, kelvin; potential energies, kJ/mol above the lowest that was seen."""
    one, other = walk.at(number, walk.energies), plain.at(number, plain.energies)
    zero = plain.energies.min()
    kinetic, plain_kinetic = (mean_and_error(of.at(number, of.kinetic)) for of in (walk, plain))
    a, b = mean_and_error((one - zero) / KJ_PER_MOL), mean_and_error((other - zero) / KJ_PER_MOL)
    return {
        "kinetic": kinetic.mean,
        "kinetic_error": kinetic.error,
        "plain_kinetic": plain_kinetic.mean,
        "plain_kinetic_error": plain_kinetic.error,
        "exchange": a.mean,
        "exchange_error": a.error,
        "plain": b.mean,
        "plain_error": b.error,
        "sigmas": (a.mean - b.mean) / float(np.hypot(a.error, b.error)),
        "spread_ratio": float(one.std() / other.std()),
        "p": same_distribution(one, other),
    }


def repeat(folder: Path, steps: int = 100) -> dict[str, float]:
    """Largest difference of the potential energies of two runs with the same seed, hartree."""
    found = {}
    run = Run("malonaldehyde", "input.xml", (300.0, 400.0, 530.0), steps, 1, plain=False)
    for name, one_by_one in (("threads", False), ("one by one", True)):
        tables = []
        for number in (1, 2):
            place = simulate(folder / f"repeat_{name.replace(' ', '_')}_{number}", run, one_by_one=one_by_one)
            tables.append([read_properties(place / f"{index}_run.out")["potential"] for index in range(3)])
        found[name] = float(np.abs(np.array(tables[0]) - np.array(tables[1])).max())
    return found


def cost(folder: Path, source: str, steps: int = 20) -> dict[str, float]:
    """Seconds of the driver for a step of the case as it stands here, and milliseconds for a frame."""
    place = folder / f"cost_{Path(source).stem}"
    if not place.exists():
        for name in ("system", "remd"):
            shutil.copytree(HERE.parent / name, place / name, ignore=shutil.ignore_patterns("study", "__pycache__"))
    here = place / "remd"
    if not (here / "RESTART").exists():
        command("run", here, "--input", source, "--steps", steps, "--quiet")
    times = re.findall(r"([\d.]+) ms per step, ([\d.]+) ms per frame", (here / "driver.log").read_text())
    return {"seconds_per_step": float(times[-1][0]) / 1000.0, "milliseconds_per_frame": float(times[-1][1])}


def main(
    folder: Path,
    steps: Mapping[str, int] | None = None,
    names: tuple[str, ...] = tuple(RUNS),
    figure: Path | None = None,
    repeats: int | None = None,
) -> dict[str, dict[str, object]]:
    """Simulate and analyse.

    Args:
        folder: Where to work.
        steps: Lengths in place of those of `RUNS`.
        names: Which of `RUNS`.
        repeats: Numbers of runs in place of those of `RUNS`.
        figure: Where to draw; None for not at all. Needs "classical".

    Returns:
        For each run, by pairs of neighbouring temperatures: "accepted", with "accepted_error" from the number of tries,
        and what was to be expected: "from_path" and, where there is a plain run, "from_plain", each with its error; by
        temperatures: "energies", see `compare`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, object]] = {}
    walks: dict[str, tuple[Walk, Walk | None]] = {}
    for name in names:
        run = RUNS[name]
        run = replace(run, steps=(steps or {}).get(name, run.steps), repeats=repeats or run.repeats)
        walk = read_all(folder / name, run)
        plain = read_all(folder / f"{name}_plain", run, swaps=False) if run.plain else None
        walks[name] = walk, plain
        ladder, pairs = run.temperatures, range(len(run.temperatures) - 1)
        share = walk.swaps / walk.tries
        found[name] = {
            "accepted": list(share),
            # Of the number of swaps; the number of tries is not written down.
            "accepted_error": list(np.sqrt(share / walk.tries)),
            "from_path": [expected_from_path(walk, number, ladder) for number in pairs],
            "from_plain": [] if plain is None else [expected_from_plain(plain, number, ladder) for number in pairs],
            "energies": [] if plain is None else [compare(walk, plain, number) for number in range(len(ladder))],
            "round_trips": walk.round_trips,
            "picoseconds": float(walk.times[-1] - walk.times[0]) / 1000.0,
        }
    if figure is not None:
        draw(*walks["classical"], RUNS["classical"].temperatures, figure)
    return found


def draw(walk: Walk, plain: Walk | None, ladder: tuple[float, ...], file: Path) -> None:
    """Walks of the replicas, and the distributions of the potential energy beside those of plain NVT."""
    figure, (left, right) = panels(1, 2, 6.5)
    shown = walk.times <= walk.times[0] + 1500.0
    for number, row in enumerate(walk.index):
        times = (walk.times[shown] - walk.times[0]) / 1000.0
        left.step(times, row[shown] + 0.12 * (number - 1), color=COLOURS[number], lw=0.8, label=f"replica {number}")
    left.set_yticks(range(len(ladder)), [f"{temperature:g}" for temperature in ladder])
    left.set_ylim(-0.4, len(ladder) - 0.1)
    left.set_xlabel("time / ps")
    left.set_ylabel("temperature / K")
    legend(left, loc="upper center", ncols=3, columnspacing=1.0, handlelength=1.2)
    zero = walk.energies.min()
    edges = np.linspace(0.0, (walk.energies.max() - zero) / KJ_PER_MOL, 46)
    for number, temperature in enumerate(ladder):
        here = (walk.at(number, walk.energies) - zero) / KJ_PER_MOL
        right.hist(here, edges, density=True, color=COLOURS[number], alpha=0.4, label=f"{temperature:g} K")
        if plain is not None:
            other = (plain.at(number, plain.energies) - zero) / KJ_PER_MOL
            right.hist(other, edges, density=True, histtype="step", color=COLOURS[number], lw=1.2)
    right.plot([], [], color="0.3", lw=1.2, label="plain NVT")
    right.set_xlabel("potential energy / kJ/mol")
    right.set_ylabel("density / mol/kJ")
    legend(right)
    save(figure, file)


def report(found: Mapping[str, Mapping[str, object]]) -> None:
    """Print the tables of the README."""
    for name, numbers in found.items():
        run = RUNS[name]
        atoms = int((HERE.parent / run.system / "init.xyz").read_text().split()[0])
        print(f"\n{name}: {run.system}, {run.beads} bead(s), {numbers['picoseconds']:.1f} ps, ", end="")
        print(f"{numbers['round_trips']} round trips")
        rows = [numbers["accepted"], numbers["accepted_error"], numbers["from_path"]]
        for number, (share, error, path) in enumerate(zip(*rows, strict=True)):
            line = f"  {run.temperatures[number]:g} - {run.temperatures[number + 1]:g} K: accepted {share:.3f}"
            line += f"({error:.3f}), expected from the path {path[0]:.3f}({path[1]:.3f})"
            if numbers["from_plain"]:
                value = numbers["from_plain"][number]
                line += f", from plain NVT {value[0]:.3f}({value[1]:.3f})"
            capacity = heat_capacity(share, run.temperatures[number : number + 2])
            print(f"{line}; C = {capacity / atoms:.1f} k per atom")
        for temperature, one in zip(run.temperatures, numbers["energies"], strict=False):
            print(
                f"  {temperature:g} K: velocities {one['kinetic']:.1f}({one['kinetic_error']:.1f}) K with exchange, "
                f"{one['plain_kinetic']:.1f}({one['plain_kinetic_error']:.1f}) K without; "
                f"{one['exchange']:.2f}({one['exchange_error']:.2f}) with exchange, "
                f"{one['plain']:.2f}({one['plain_error']:.2f}) without, {one['sigmas']:+.1f} sigma; spreads "
                f"{one['spread_ratio']:.2f}; p = {one['p']:.2f}"
            )


if __name__ == "__main__":
    work = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "study"
    report(main(work, figure=HERE / "figure.png"))
    print("\nsame seed twice:", repeat(work))
    for source in ("input.xml", "beads.xml"):
        print(f"{source}, the case as it stands, two threads: {cost(work, source)}")
