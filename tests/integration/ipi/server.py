"""Real i-PI servers, as subprocesses that never outlive a test.

    with IpiServer(folder, make_input(mode="unix", address=name)) as server:
        ... start a driver ...
        server.wait(60)
    table = server.properties()          # {"step": array, ...}

Every process is started in a session of its own and the whole session is killed at the end, whatever happens.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

SOCKET_PREFIX = "/tmp/ipi_"
IPI = Path(sys.executable).with_name("i-pi")
SOURCE_ROOT = Path(__file__).resolve().parents[3] / "driver"
_numbers = itertools.count()

INPUT = """\
<simulation verbosity='{verbosity}' floatformat='%25.17e'>
  <output prefix='out'>
    <properties stride='1' filename='properties'> [ {properties} ] </properties>
    {trajectories}
  </output>
  <total_steps> {steps} </total_steps>
  <prng> <seed> 31415 </seed> </prng>
  {forcefield}
  <system>
    <initialize nbeads='{beads}'>
      <file mode='xyz'> init.xyz </file>
      <velocities mode='thermal' units='kelvin'> 300 </velocities>
    </initialize>
    <forces> <force forcefield='driver'/> </forces>
    <motion mode='dynamics'>
      <dynamics mode='{ensemble}'>
        <timestep units='femtosecond'> 0.5 </timestep>
        {thermostat}
      </dynamics>
    </motion>
    <ensemble> <temperature units='kelvin'> 300 </temperature> </ensemble>
  </system>
</simulation>
"""

FFSOCKET = """\
<ffsocket name='driver' mode='{mode}' pbc='false'>
    <address> {address} </address> {port}
    <latency> 1e-4 </latency> {batch} {consolidate}
  </ffsocket>"""

FFDIRECT = """\
<ffdirect name='driver' threaded='{threaded}'>
    <pes> custom </pes> <pes_path> {path} </pes_path> {batch}
  </ffdirect>"""

# Upper triangular in i-PI's convention (columns are lattice vectors), three masses, wells nearby.
INIT = """\
3
# CELL(H): 10.0 1.5 -2.0 0.0 9.0 0.7 0.0 0.0 11.0 cell{atomic_unit} positions{atomic_unit}
O 0.10 -0.90 1.05
H 1.95 -0.60 0.60
H 4.10 1.05 0.35
"""


def unique_name(label: str = "toy") -> str:
    """A socket name that no other test, run or machine user has."""
    return f"deltaqmmm_{label}_{os.getpid()}_{next(_numbers)}"


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def atom_columns(beads: int, atoms: int = 3) -> str:
    """i-PI properties for the positions of all atoms of all beads."""
    return ", ".join(f"atom_x(atom={atom};bead={bead})" for bead in range(beads) for atom in range(atoms))


def ffsocket(
    mode: str, address: str = "localhost", *, port: int | None = None, batch_size: int = 1, consolidate: bool = True
) -> str:
    """An <ffsocket> element."""
    return FFSOCKET.format(
        mode=mode,
        address=address,
        port="" if port is None else f"<port> {port} </port>",
        batch=f"<batch_size> {batch_size} </batch_size>" if batch_size > 1 else "",
        consolidate="" if consolidate else "<consolidate_messages> False </consolidate_messages>",
    )


def ffdirect(path: Path, *, batch_size: int = 1, threaded: bool = False) -> str:
    """An <ffdirect> element around a custom PES file."""
    batch = f"<batch_size> {batch_size} </batch_size>" if batch_size > 1 else ""
    return FFDIRECT.format(path=path, batch=batch, threaded=threaded)


def make_input(
    forcefield: str,
    *,
    steps: int = 20,
    beads: int = 4,
    properties: Sequence[str] = ("step", "potential", "conserved"),
    trajectories: Sequence[str] = (),
    ensemble: str = "nvt",
    positions: bool = True,
    verbosity: str = "low",
) -> str:
    """The XML of a short path-integral run of three atoms."""
    columns = list(properties) + ([atom_columns(beads)] if positions else [])
    thermostat = "<thermostat mode='pile_l'> <tau units='femtosecond'> 20 </tau> </thermostat>"
    return INPUT.format(
        steps=steps,
        beads=beads,
        forcefield=forcefield,
        properties=", ".join(columns),
        trajectories="\n    ".join(trajectories),
        ensemble=ensemble,
        thermostat=thermostat if ensemble == "nvt" else "",
        verbosity=verbosity,
    )


def environment() -> dict[str, str]:
    """One thread, and the package from this source tree."""
    paths = [str(SOURCE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll until something is so; fails the test otherwise."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {seconds:g} s")
        time.sleep(0.01)


class Process:
    """A subprocess with its output in a file, killed with all its children at the end of the `with` block."""

    def __init__(self, command: Sequence[str | Path], folder: Path, output: str) -> None:
        self.folder = folder
        self.output_file = folder / output
        with self.output_file.open("w") as stream:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                cwd=folder,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """All it has printed so far."""
        return self.output_file.read_text()

    @property
    def pid(self) -> int:
        """Its process number."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def wait(self, seconds: float) -> int:
        """Wait for its end and return its exit status; fails the test if it takes longer."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running after {seconds:g} s; its output:\n{self.output}") from None

    def wait_for_output(self, pattern: str, seconds: float) -> None:
        """Wait until its output matches."""
        wait_until(
            lambda: re.search(pattern, self.output) is not None, seconds, f"{pattern!r} in {self.output_file.name}"
        )

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL it and whatever it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def cpu_seconds(self) -> float:
        """Processor time used so far (Linux)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __enter__(self):
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
        if error is not None:
            print(f"--- {self.output_file} ---\n{self.output}")


class IpiServer(Process):
    """A running i-PI.

    Args:
        folder: Where it runs; made if needed.
        xml: Its input file.
        init: The start structure, `init.xyz`; None leaves the folder as it is.
        flags: Further command line flags.
    """

    def __init__(self, folder: Path, xml: str, *, init: str | None = INIT, flags: Sequence[str] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "input.xml").write_text(xml)
        if init is not None:
            (folder / "init.xyz").write_text(init)
        found = re.search(r"<ffsocket[^>]*mode='(?:unix|shm)'.*?<address>\s*(\S+)", xml, re.DOTALL)
        prefix = flags[flags.index("-S") + 1] if "-S" in flags else SOCKET_PREFIX
        self.socket_file = Path(prefix + found.group(1)) if found else None
        super().__init__([sys.executable, IPI, *flags, "input.xml"], folder, "ipi.log")

    def kill(self) -> None:
        """SIGKILL it, and remove the socket and the shared memory that i-PI leaves behind then."""
        super().kill()
        if self.socket_file is not None:
            self.socket_file.unlink(missing_ok=True)
        for segment in Path("/dev/shm").glob(f"ipi_shm_{self.pid}_*"):
            segment.unlink(missing_ok=True)

    def wait_listening(self, seconds: float = 30.0) -> None:
        """Wait for its unix socket."""
        assert self.socket_file is not None
        wait_until(self.socket_file.exists, seconds, "i-PI's socket")

    def properties(self) -> dict[str, np.ndarray]:
        """The property file: one array per quantity, (steps,) or (steps, components)."""
        return read_properties(self.folder / "out.properties")


def read_properties(file: Path) -> dict[str, np.ndarray]:
    """Read an i-PI property file by the column names in its head."""
    lines = file.read_text().splitlines()
    table = np.array([[float(word) for word in line.split()] for line in lines if not line.startswith("#")])
    columns: dict[str, np.ndarray] = {}
    for line in lines:
        match = re.match(r"# col(?:umn|s\.)\s+(\d+)(?:-(\d+))?\s+--> ([^\s:{]+)", line)
        if match:
            first, last = int(match[1]), int(match[2] or match[1])
            columns[match[3]] = table[:, first - 1] if first == last else table[:, first - 1 : last]
    return columns


def toy_client(folder: Path, *flags: str | Path, output: str = "client.log") -> Process:
    """Start the toy client; its evaluations are logged in `<output>.jsonl`."""
    folder.mkdir(parents=True, exist_ok=True)
    script = Path(__file__).with_name("toy_client.py")
    return Process([sys.executable, script, "--log", folder / (output + ".jsonl"), *flags], folder, output)


def evaluations(folder: Path, output: str = "client.log") -> list[int]:
    """The number of frames of each evaluation of a toy client so far."""
    log = folder / (output + ".jsonl")
    if not log.exists():
        return []
    return [json.loads(line)["frames"] for line in log.read_text().splitlines()]
