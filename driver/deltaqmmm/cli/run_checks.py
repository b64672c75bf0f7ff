"""What `deltaqmmm run` makes sure of before it starts anything: one clear error for whatever would fail later."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from deltaqmmm.cases.batches import systems
from deltaqmmm.cases.values import EDIT_MARK
from deltaqmmm.config import Config
from deltaqmmm.errors import InputError
from deltaqmmm.ipi.connection import InetAddress, UnixAddress
from deltaqmmm.ipi.simulation import ForceSocket, Simulation, StartFile, parse_input, read_simulation, temperatures
from deltaqmmm.units import ANGSTROM, KELVIN

if TYPE_CHECKING:
    # Not loaded before they are needed.
    from deltaqmmm.ml import ModelInfo
    from deltaqmmm.topology import Topology

TERMS = ("mm", "dftb", "correction")
"""The names of the terms, as `deltaqmmm.potential` has them, which is not imported for its weight."""
_PLUMED_SECONDS = 60.0
_ATOMIC_UNITS = frozenset({"", "automatic", "atomic_unit"})
_HIGHEST_TEMPERATURE = 1.0
"""In atomic units: 316,000 K."""
_INCLUDE = re.compile(r"^[^#\n]*\bINCLUDE\b(?:[^#\n]*?|\s+\.\.\.[^#]*?)\bFILE=\{?([^\s}]+)", re.MULTILINE)


@contextmanager
def alone_in(folder: Path) -> Iterator[int]:
    """Keep every other `deltaqmmm run` out of a folder.

    Yields:
        The descriptor that the lock is on: it holds until the last process that has it ends.

    Raises:
        InputError: There is no such folder, or another process is at work there.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise InputError(
            f"{folder}: no folder that can be read ({error.strerror}). Name the one that holds input.xml and "
            "config.toml; `deltaqmmm build` makes one."
        ) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        os.close(descriptor)
        raise InputError(f"{folder}: cannot be written, and i-PI writes there: copy it to a place of your own.")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InputError(
            f"{folder}: another `deltaqmmm run` is at work there, or is just ending: wait for it, or stop it."
        ) from None
    except OSError:
        # A file system without locks.
        pass
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def served_terms(force_socket: ForceSocket, config: Config) -> tuple[str, ...] | None:
    """The terms that the name of an <ffsocket> asks for, "mm_dftb" or "correction"; None for all.

    Raises:
        InputError: It asks for the correction, and the configuration has none.
    """
    words = force_socket.name.replace("+", "_").split("_")
    if not all(word in TERMS for word in words):
        return None
    if "correction" in words and config.correction.model is None:
        raise InputError(
            f"{config.file}: the <ffsocket name='{force_socket.name}'> asks for the correction, and [correction] names "
            "no model: give one, or give the <ffsocket> another name, which is served the whole potential."
        )
    return tuple(words)


def unserved_terms(served: Sequence[tuple[str, ...] | None], config: Config) -> list[str]:
    """The terms of the configuration that no <ffsocket> asks for; DFTB may be replaced by a direct correction."""
    if None in served or not served:
        return []
    there = {"mm", "correction"} if config.correction.model is not None else {"mm", "dftb"}
    return [term for term in TERMS if term in there and not any(terms and term in terms for terms in served)]


def check_files(folder: Path, simulation: Simulation) -> None:
    """Raise `InputError` if a file that i-PI reads is not there, or one that ends it at once is."""
    if (folder / "EXIT").exists():
        raise InputError(f"{folder / 'EXIT'}: i-PI ends as soon as it sees this file: remove it.")
    for file in simulation.start_files:
        if not (folder / file.name).is_file():
            raise InputError(
                f"{simulation.file}: {file.element} names '{file.name}', and there is no such file: correct the name, "
                f"which is relative to {folder}."
            )
    check_replicas(simulation)
    check_temperatures(simulation)


def check_replicas(simulation: Simulation) -> None:
    """Raise `InputError` for replica exchange with one replica."""
    root = parse_input(simulation.file)
    if next(root.iter("remd"), None) is not None and sum(number for _, number in systems(root)) < 2:
        raise InputError(
            f"{simulation.file}: <remd> exchanges replicas, and there is one <system>: give two or more, each with its "
            "temperature (an <instance> of <system_template>), or remove <smotion>."
        )


def check_temperatures(simulation: Simulation) -> None:
    """Raise `InputError` for a temperature in kelvin that i-PI takes for one in atomic units."""
    for element, value, units in temperatures(simulation.file):
        if units.strip() in _ATOMIC_UNITS and value > _HIGHEST_TEMPERATURE:
            raise InputError(
                f"{simulation.file}: {element} is {value:g} in atomic units, which is {value / KELVIN:.3g} K: give it "
                "units='kelvin'."
            )


def check_model(config: Config) -> ModelInfo | None:
    """See that the model of the configuration is there and fits the system and the other settings.

    Returns:
        What the model is; None if the configuration has none.

    Raises:
        InputError: There is no such file.
        ModelError: It is no model, or was trained for other settings or elements.
    """
    model = config.correction.model
    if model is None:
        return None
    if not model.is_file():
        raise InputError(
            f"{config.file}: [correction] model: there is no file {model}. Correct the path, which is relative to the "
            "configuration file, or make the model with `deltaqmmm train`."
        )
    import torch

    from deltaqmmm.config.correction import bind_correction, read_model
    from deltaqmmm.config.parts import load_split

    found = read_model(config)
    if found is None:
        return None
    bind_correction(config, found, load_split(config)[1], torch.device("cpu"))
    return found.info


def find_doubts(
    config: Config, topology: Topology, model: ModelInfo | None, served: Sequence[tuple[str, ...] | None]
) -> list[list[str]]:
    """What the drivers warn of when they start, in logs that nobody may read: for each doubt some lines.

    Args:
        config: Of the drivers.
        topology: Of the configuration.
        model: Of the configuration.
        served: The terms that each <ffsocket> asks for; None for all.

    Raises:
        TopologyError: The QM region cannot be what the configuration says.
    """
    from deltaqmmm.cli.console import (
        charge_warnings,
        embedding_warnings,
        method_warnings,
        model_warnings,
        qm_region,
    )
    from deltaqmmm.system import System, parse_selection

    terms = {term for one in served for term in (TERMS if one is None else one)}
    selection = parse_selection(config.qm.atoms, topology, config.qm.residues)
    system = System.from_topology(topology, selection, config.qm.charge)
    found = charge_warnings(topology, system)
    if "dftb" in terms and (model is None or model.target == "delta"):
        found += method_warnings(config)
    if model is not None and "correction" in terms:
        found += model_warnings(model, qm_region(system.qm_symbols, system.qm_charge))
    if terms & {"dftb", "correction"}:
        found += embedding_warnings(config, topology, system)
    return found


def check_atoms(folder: Path, simulation: Simulation, config: Config) -> Topology:
    """Return the topology; raise `InputError` if i-PI would begin with another number of atoms than it has."""
    from deltaqmmm.topology import NonbondedSettings, load_topology

    section = config.system
    nonbonded = NonbondedSettings(cutoff=config.mm.cutoff_angstrom * ANGSTROM, switch_distance=None)
    topology = load_topology(section.topology, section.coordinates, nonbonded, section.include_folder)
    needed = len(topology.atom_particles)
    counts: list[tuple[str, int | None]] = [(f"{simulation.file}: a <system>", n) for n in simulation.n_atoms]
    counts += [(f"{folder / file.name}", count_atoms(folder / file.name, file)) for file in simulation.start_files]
    given = {one.n_active for one in simulation.sockets}
    for number in given - {None}:
        if number != needed:
            raise InputError(
                f"{simulation.file}: an <activelist> has {number} atoms, and {section.topology.name} has {needed}: the "
                "driver needs the positions of all its atoms and no others."
            )
    for what, found in counts:
        if None in given and found not in (None, needed):
            raise InputError(
                f"{what} has {found} atoms, and {section.topology.name} of {config.file} has {needed} (virtual sites "
                "not counted): i-PI and the driver need the same system. Give the files that belong together."
            )
    return topology


def count_atoms(path: Path, file: StartFile) -> int | None:
    """The number of atoms in the first frame of a file; None if it holds something else, or cannot be told.

    Raises:
        InputError: The file is not what its mode says.
    """
    if file.mode == "chk":
        counts = read_simulation(path).n_atoms if file.whole else ()
        return counts[0] if counts else None
    if not file.whole or file.mode not in ("xyz", "ase", "pdb"):
        return None
    with path.open(encoding="utf-8", errors="replace") as stream:
        if file.mode == "pdb":
            count = 0
            for line in stream:
                count += line.startswith(("ATOM", "HETATM"))
                if line.startswith("END"):
                    break
            return count
        first = stream.readline().strip()
    if first.isdigit():
        return int(first)
    if file.mode == "ase":
        # Any format that ASE reads.
        return None
    raise InputError(f"{path}: is no xyz file: its first line is '{first[:40]}', and a number of atoms is needed.")


def check_plumed(simulation: Simulation, ipi: Path) -> None:
    """Raise `InputError` if the input needs PLUMED, and the Python of i-PI cannot load it."""
    if not simulation.plumed:
        return
    with ipi.open("rb") as stream:
        first = stream.readline().decode(errors="replace").strip()
    interpreter = first.removeprefix("#!").split()
    if not first.startswith("#!") or not Path(interpreter[-1]).is_file():
        # Not a script of a Python environment; i-PI will tell.
        return
    try:
        result = subprocess.run(
            [*interpreter, "-c", "import plumed; plumed.Plumed()"],
            capture_output=True,
            text=True,
            timeout=_PLUMED_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise InputError(
            f"{simulation.file}: <ffplumed> needs PLUMED, which {interpreter[-1]}, the Python of i-PI, cannot load "
            f"({reason}). Install it there: `pip install --no-deps hillclimber` (Python module and kernel), or `conda "
            "install -c conda-forge plumed py-plumed`, or `pip install plumed` with PLUMED_KERNEL set to the "
            "libplumedKernel.so of an installed PLUMED."
        )


def check_edited(folder: Path, simulation: Simulation) -> None:
    """Raise `InputError` if a PLUMED input, or what it includes, still says that it has to be edited.

    Args:
        folder: Where i-PI runs.
        simulation: The input, or a checkpoint.
    """
    if not simulation.plumed:
        return
    elements = parse_input(simulation.file).iter("ffplumed")
    waiting = [(element.findtext("plumed_dat") or "").strip() or "plumed.dat" for element in elements]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or not (folder / name).is_file():
            continue
        seen.add(name)
        text = (folder / name).read_text(encoding="utf-8", errors="replace")
        for line in text.splitlines():
            if line.strip().startswith(EDIT_MARK):
                what = line.strip().removeprefix(EDIT_MARK).strip()
                raise InputError(
                    f"{folder / name}: is still that of another molecule: edit it ({what}), and remove the line "
                    f"'{EDIT_MARK} ...' when done."
                )
        waiting += _INCLUDE.findall(text)


def check_sockets(simulation: Simulation, prefix: str) -> None:
    """Raise `InputError` if i-PI could not open a socket.

    Args:
        simulation: Has the sockets.
        prefix: What i-PI is started with.
    """
    seen: dict[str, str] = {}
    for one in simulation.sockets:
        address = one.under(prefix)
        if str(address) in seen:
            raise InputError(
                f"{simulation.file}: two <ffsocket>s, '{seen[str(address)]}' and '{one.name}', have the same address, "
                f"'{one.address}': give each its own."
            )
        seen[str(address)] = one.name
        if isinstance(address, InetAddress):
            _check_port(simulation, one)
        elif one.nested:
            _check_free(simulation, one, address)
        address.check()


def _check_free(simulation: Simulation, one: ForceSocket, address: UnixAddress) -> None:
    if os.path.lexists(address.path):
        raise InputError(
            f"{address.path}: the socket of <ffsocket name='{one.name}'> in {simulation.file} exists: another i-PI is "
            "using it, or was killed and left it. Change the <address>, or, if no other runs, remove the file. (i-PI "
            "cannot place a socket elsewhere that stands inside another force field.)"
        )


def _check_port(simulation: Simulation, one: ForceSocket) -> None:
    """Try what i-PI will do."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((one.address, one.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                reason, remedy = "is in use by another program", "Change the <port>, or end the other program."
            else:
                reason = f"cannot be opened on this machine ({error.strerror or error})"
                remedy = "Take localhost as the <address>, and a <port> from 1025 to 65535; or mode='unix'."
            raise InputError(
                f"{simulation.file}: {one.address}, port {one.port}, of <ffsocket name='{one.name}'> {reason}. {remedy}"
            ) from None
