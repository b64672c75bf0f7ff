"""What `deltaqmmm sample` runs: the plan of each trajectory, and its folder, which survives a kill."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from deltaqmmm.atomic import write_atomically
from deltaqmmm.build.ipi_input import input_xml
from deltaqmmm.config import Config
from deltaqmmm.errors import InputError
from deltaqmmm.ipi.connection import UnixAddress
from deltaqmmm.ipi.processes import Ending, Group, GroupSettings, Program, find_ipi, make_socket_folder
from deltaqmmm.ipi.restart import cut_back, find_checkpoint
from deltaqmmm.ipi.simulation import Simulation, read_simulation

INPUT, _RECORD, _COMPLETE, _LOCK = "input.xml", "run.json", "complete.json", "lock"
_SOCKET = "run"
# Keys that change nothing that a run computes, or only where it is computed.
_WITHOUT_EFFECT = {"threads", "device", "platform", "coordinates", "frames_file", "max_frames", "frames_interval_steps"}
_SECTIONS = ("system", "qm", "dftb", "embedding", "mm", "correction")


@dataclass(frozen=True)
class RunPlan:
    """One trajectory.

    Attributes:
        name: Of its folder: `300K_8` for 300 K and 8 beads, `300K_8_2` for a second replica.
        temperature: Kelvin.
        beads: 1 is classical.
        steps: Number of time steps.
        timestep: Femtoseconds.
        stride: Steps from one candidate frame to the next.
        first: Number of the first candidate frame, counted from 0 at the start structure.
        seed: Of i-PI's random numbers.
    """

    name: str
    temperature: float
    beads: int
    steps: int
    timestep: float
    stride: int
    first: int
    seed: int

    @property
    def n_frames(self) -> int:
        """Frames in the trajectory of each bead."""
        return self.steps // self.stride + 1

    @property
    def n_candidates(self) -> int:
        """Frames to choose from, of all beads."""
        return self.beads * max(self.n_frames - self.first, 0)

    @property
    def cost(self) -> int:
        """Evaluations."""
        return self.steps * self.beads

    def input_text(self) -> str:
        """The i-PI input."""
        return input_xml(
            address=_SOCKET,
            nbeads=self.beads,
            temperature_kelvin=self.temperature,
            timestep_femtosecond=self.timestep,
            steps=self.steps,
            ensemble="nvt",
            seed=self.seed,
            stride=self.stride,
        )

    def record(self, start: str, potential: str) -> dict[str, object]:
        """What a finished run is compared by."""
        return {
            "temperature_kelvin": self.temperature,
            "beads": self.beads,
            "steps": self.steps,
            "timestep_femtosecond": self.timestep,
            "steps between frames": self.stride,
            "seed": self.seed,
            "start structure": hashlib.sha256(start.encode()).hexdigest()[:16],
            "potential": potential,
        }


def potential_identity(config: Config) -> str:
    """A hash of all in a configuration that decides the forces, with the contents of the files it names."""
    sections = dataclasses.asdict(config)
    found = {
        name: {key: _plain(value) for key, value in sections[name].items() if key not in _WITHOUT_EFFECT}
        for name in _SECTIONS
    }
    return hashlib.sha256(json.dumps(found, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return hashlib.sha256(value.read_bytes()).hexdigest() if value.is_file() else value.name
    return value


class RunFolder:
    """The folder of all runs; a context manager that keeps every other process out.

    Args:
        folder: Made if it is not there.
        plans: The runs.
        starts: Texts of start structures, `init.xyz`; the runs take them in turn.
        config: Of the potential.

    Raises:
        InputError: Another process works there, or something stands there that this one may not replace.
    """

    def __init__(self, folder: Path, plans: Sequence[RunPlan], starts: Sequence[str], config: Config) -> None:
        self.folder = folder
        self.plans = plans
        self._starts = dict(zip([plan.name for plan in plans], cycle(starts), strict=False))
        self._config = config
        self._potential = potential_identity(config)
        self._lock = -1

    def __enter__(self) -> RunFolder:
        try:
            self.folder.mkdir(exist_ok=True)
            self._lock = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise InputError(
                f"{self.folder}: the runs cannot be kept there ({error.strerror}); see --folder."
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise InputError(
                f"{self.folder}: another process is sampling there: wait for it, stop it, or name another --folder."
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def place(self, plan: RunPlan) -> Path:
        """The folder of a run."""
        return self.folder / plan.name

    def is_complete(self, plan: RunPlan) -> bool:
        """Whether a run is finished.

        Raises:
            InputError: Its folder is not one of ours, or holds a finished run with other settings.
        """
        place = self.place(plan)
        if not place.exists():
            return False
        try:
            there = json.loads((place / _RECORD).read_text())
        except (OSError, ValueError):
            raise InputError(
                f"{place}: stands in the way, and is not a run of `deltaqmmm sample` (no {_RECORD} that can be read): "
                "remove it, or name another --folder."
            ) from None
        if not (place / _COMPLETE).is_file():
            found = self._checkpoint(plan)
            if found is None or found.step < plan.steps:
                return False
            # Ended, and killed before it was noted. i-PI starts from no checkpoint that is at the end.
            write_atomically(place / _COMPLETE, _json({}))
            return True
        here = plan.record(self._starts[plan.name], self._potential)
        changed = [name for name in here if there.get(name) != here[name]]
        if changed:
            told = ", ".join(f"{name} {there.get(name)} there and {here[name]} here" for name in changed)
            raise InputError(
                f"{place}: this run was finished with other settings: {told}. Name another --folder for the new runs, "
                "or remove this one."
            )
        return True

    def make(self, plan: RunPlan) -> Path:
        """Make the folder of a run anew."""
        place = self.place(plan)
        if place.exists():
            shutil.rmtree(place)
        place.mkdir()
        # First of all: so a kill right here leaves a folder that is known as ours.
        write_atomically(place / _RECORD, _json(plan.record(self._starts[plan.name], self._potential)))
        (place / INPUT).write_text(plan.input_text(), encoding="utf-8")
        (place / "init.xyz").write_text(self._starts[plan.name], encoding="utf-8")
        return place

    def prepare(self, plan: RunPlan) -> Path:
        """What i-PI begins a run from: the newest checkpoint in its folder, else the input of a new one."""
        found = self._checkpoint(plan)
        if found is None:
            return self.make(plan) / INPUT
        cut_back(self.place(plan), read_simulation(self.place(plan) / INPUT), found.step)
        return found.file

    def _checkpoint(self, plan: RunPlan) -> Simulation | None:
        """Where the same run stopped before, if it did."""
        place = self.place(plan)
        try:
            there = json.loads((place / _RECORD).read_text())
            start = read_simulation(place / INPUT)
        except (OSError, ValueError, InputError):
            return None
        same = there == plan.record(self._starts[plan.name], self._potential)
        return find_checkpoint(place, start).simulation if same else None

    def start(self, plan: RunPlan, environment: Mapping[str, str]) -> Group:
        """Start i-PI and the driver, from the beginning or where the run stopped."""
        begin = self.prepare(plan)
        place = self.place(plan)
        socket_folder = make_socket_folder()
        prefix = f"{socket_folder}{os.sep}"
        try:
            UnixAddress(_SOCKET, prefix).check()
            driver = [sys.executable, "-P", "-m", "deltaqmmm.cli.main", "drive", str(self._config.file)]
            # On a busy machine i-PI may take its time; if it dies, the driver is ended with it.
            driver += ["-u", "-a", _SOCKET, "-S", prefix, "--frames", "init.xyz", "--wait", "600"]
            return Group.start(
                GroupSettings(
                    folder=place,
                    server=Program("i-PI", [str(find_ipi()), "-S", prefix, begin.name], "ipi.log"),
                    drivers=[Program("the driver", driver, "driver.log")],
                    environment=environment,
                    socket_folder=socket_folder,
                )
            )
        except BaseException:
            shutil.rmtree(socket_folder, ignore_errors=True)
            raise

    def finish(self, plan: RunPlan, ending: Ending, step: int, seconds: float) -> str | None:
        """Mark a run as complete, or say why it is not."""
        place = self.place(plan)
        if not ending.well:
            return ending.explain()
        if step != plan.steps:
            return f"i-PI ended after step {step} of {plan.steps}: something asked it to end (see {place}/ipi.log)"
        write_atomically(place / _COMPLETE, _json({"seconds": round(seconds, 1)}))
        return None

    def trajectories(self, plan: RunPlan) -> list[Path]:
        """The files of positions, a bead each.

        Raises:
            InputError: Some are missing.
        """
        found = sorted(self.place(plan).glob("run.pos_*.xyz"))
        if len(found) != plan.beads:
            raise InputError(
                f"{self.place(plan)}: has the positions of {len(found)} beads, not of {plan.beads}: remove this "
                "folder and run the command again."
            )
        return found


def _json(content: Mapping[str, object]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()
