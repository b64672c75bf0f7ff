"""The cases of ipi_inputs/ as a user runs them: `deltaqmmm new`, then `deltaqmmm run`.

folder = make("pimd", tmp_path, beads=2, steps=4)
run(folder)
run(folder, 8)                       # four more
run(folder, input="beads.xml")       # flags of the command
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from deltaqmmm.cli.main import main
from tests.integration.ipi.server import environment, unique_name

INPUTS = Path(__file__).resolve().parents[3] / "ipi_inputs"
MODEL = INPUTS.parent / "examples" / "uracil_water" / "delta.safetensors"
PATIENCE = 300.0


def make(case, tmp_path, system="small", *, name=None, every=1, **options):
    """Copy a case for a system of ipi_inputs/ (or a folder elsewhere).

    Args:
        case: Its name.
        tmp_path: Where to make the folder.
        system: Name of a folder in ipi_inputs/, or a path.
        name: Of the new folder; that of the case if not given.
        every: The stride of all properties and trajectories; None leaves those of the case.
        options: Of `deltaqmmm new`: beads=2, temperatures=[300, 330].

    Returns:
        The new folder.
    """
    folder = Path(tmp_path) / (name or case)
    words = ["new", case, folder, "--system", INPUTS / system, "--quiet"]
    # Nested sockets are files in /tmp, whatever the prefix: no two tests may share a name.
    for option, value in {"name": unique_name(case), **options}.items():
        words += [f"--{option}", *(value if isinstance(value, list | tuple) else [value])]
    assert main([str(word) for word in words]) == 0
    if every is not None:
        for file in folder.glob("*.xml"):
            set_strides(file, every)
    return folder


def make_corrected(case, tmp_path, **options):
    """The same with the model of the worked example, for the small system with the dispersion that it was trained
    with."""
    system = Path(tmp_path) / "with_dispersion"
    if not system.is_dir():
        shutil.copytree(INPUTS / "small", system)
        config = system / "config.toml"
        config.write_text(config.read_text().replace('dispersion = "none"', 'dispersion = "d3bj"'))
    return make(case, tmp_path, system, model=MODEL, **options)


def set_strides(file, every):
    """Let an input write its properties and trajectories every so many steps."""

    def changed(found):
        return re.sub(r"stride='[^']*'", f"stride='{every}'", found[0])

    file.write_text(re.sub(r"<(properties|trajectory)\b[^>]*>", changed, file.read_text()))


def run(folder, steps=None, *, timeout=PATIENCE, status=0, **flags):
    """`deltaqmmm run` in a process of its own.

    Args:
        folder: Where.
        steps: Total steps, in place of those of the input.
        timeout: Seconds.
        status: How it has to end.
        flags: Of the command: input="beads.xml", drivers=2, fresh=True.

    Returns:
        What it printed.
    """
    command = run_command(folder, steps, **flags)
    done = subprocess.run(command, env=environment(), timeout=timeout, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    if done.returncode != status:
        logs = "".join(f"--- {log.name} ---\n{log.read_text()[-2000:]}" for log in sorted(folder.glob("*.log")))
        raise AssertionError(f"status {done.returncode}, not {status}:\n{said}\n{logs}")
    return said


def run_command(folder, steps=None, **flags):
    """The words of the command."""
    words = [sys.executable, "-P", "-m", "deltaqmmm.cli.main", "run", folder]
    words += [] if steps is None else ["--steps", steps]
    for flag, value in flags.items():
        words += [f"--{flag}"] if value is True else [f"--{flag}", value]
    return [os.fspath(word) if isinstance(word, Path) else str(word) for word in words]


def last_positions(folder, name="RESTART"):
    """Positions of the beads in a checkpoint with all their digits: an array (beads, atoms, 3) for each system,
    bohr."""
    systems = ElementTree.parse(folder / name).getroot().findall("system")
    texts = [system.find("beads/q") for system in systems]
    return [
        np.array([float(word) for word in element.text.strip(" []\n").split(",")]).reshape(
            int(system.find("beads").get("nbeads")), -1, 3
        )
        for system, element in zip(systems, texts, strict=True)
    ]
