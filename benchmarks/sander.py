"""sander of AmberTools with its own DFTB3 QM/MM on the same box."""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.programs import ProgramFailedError, ProgramMissingError, thread_environment

FIRST_STEPS = 2
CUTOFF = 9.0
USUAL_SKIN = 2.0
MARGIN = 0.3
"""Angstrom. sander's skin of the neighbour list is 2 angstrom wide; it and the cutoff must fit half the box, and so
must the QM region with its cutoff."""

_INPUT = """{title}, NVE
&cntrl imin=0, nstlim={steps}, dt=0.0005, ntx=1, ntb=1, cut={cutoff}, ntc=1, ntf=1, jfastw=4, ntpr={steps}, ntwx=0,
ntwr=100000, tempi=300.0, ig=1, ntt=0, nscm=0, ifqnt=1 /
&qmmm qmmask=':{residues}', qmcharge={charge}, qm_theory='DFTB3', qmcut={qm_cutoff}, qmshake=0, qm_ewald=1, qm_pme=1,
  scfconv=1e-8, dftb_telec=0.0, dftb_maxiter=100, writepdb=0, verbosity=0 /
&ewald skinnb={skin} /
"""
"""9 angstrom cutoffs (less for QM-MM in a small box), particle-mesh Ewald for MM-MM and QM-MM. One time step is 0.5
fs."""


class Sander:
    """Short runs of sander.

    Args:
        box: The box.
    """

    def __init__(self, box):
        beside = Path(sys.executable).with_name("sander")
        self._program = str(beside) if beside.is_file() else shutil.which("sander")
        if self._program is None:
            raise ProgramMissingError("sander is not installed: neither beside Python nor on PATH")
        self._box = box
        # The folder is the process's own and goes with it.
        self._folder = tempfile.TemporaryDirectory(prefix="sander_")
        for name in ("system.prmtop", "system.rst7"):
            shutil.copy(box.folder / name, self._folder.name)
        self._wall(1)

    def turn(self, steps):
        """Seconds per step: a run with `steps` more steps than another, so that start-up cancels."""
        short = self._wall(FIRST_STEPS)
        return (self._wall(FIRST_STEPS + steps) - short) / steps

    def _fitting(self):
        """The widest cutoff of QM-MM and skin of the neighbour list that sander takes in this box, angstrom."""
        lines = (self._box.folder / "system.rst7").read_text().splitlines()
        half = 0.5 * min(float(word) for word in lines[-1].split()[:3])
        numbers = [float(line[12 * i : 12 * i + 12]) for line in lines[2:-1] for i in range(len(line) // 12)]
        qm = np.array(numbers).reshape(-1, 3)[: self._box.molecule.n_atoms]
        radius = 0.5 * float(np.ptp(qm, axis=0).max())
        return min(CUTOFF, round(half - radius - MARGIN, 1)), min(USUAL_SKIN, round(half - CUTOFF - MARGIN, 1))

    def _wall(self, steps):
        molecule = self._box.molecule
        qm_cutoff, skin = self._fitting()
        text = _INPUT.format(
            title=molecule.title,
            steps=steps,
            cutoff=CUTOFF,
            residues=",".join(molecule.residues),
            charge=molecule.charge,
            qm_cutoff=qm_cutoff,
            skin=skin,
        )
        (Path(self._folder.name) / "sander.in").write_text(text)
        words = ["-O", "-i", "sander.in", "-o", "sander.out", "-p", "system.prmtop", "-c", "system.rst7"]
        words += ["-r", "restart", "-x", "trajectory", "-inf", "info"]
        start = time.perf_counter()
        done = subprocess.run(
            [self._program, *words],
            cwd=self._folder.name,
            # Threads of its BLAS do not help matrices of this size.
            env=thread_environment(1),
            check=False,
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - start
        file = Path(self._folder.name) / "sander.out"
        output = file.read_text() if file.exists() else ""
        if done.returncode or "Final Performance Info" not in output:
            lines = [line.strip() for line in (output + done.stdout + done.stderr).splitlines() if line.strip()]
            raise ProgramFailedError(f"sander failed on {self._box.label}: {' / '.join(lines[-3:])}")
        return seconds
