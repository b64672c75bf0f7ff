"""The i-PI files of a folder: input.xml and init.xyz."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.sax.saxutils import escape

import numpy as np

from deltaqmmm.results import FloatArray
from deltaqmmm.units import ANGSTROM

_TEMPLATE = """\
<!-- i-PI 3.3. `deltaqmmm run .` in this folder runs i-PI with its driver. By hand: `i-pi input.xml`, and in a second
terminal
     `deltaqmmm drive config.toml -u -a {address}`. -->
<simulation verbosity='medium'>
  <output prefix='run'>
    <!-- Energies in hartree. A drift of `conserved` means that the time step is too long. -->
    <properties stride='1' filename='out'>
      [ step, time{{femtosecond}}, conserved, temperature{{kelvin}}, kinetic_md, potential ]
    </properties>
    <!-- One file for each bead. -->
    <trajectory filename='pos' stride='{stride}' format='xyz' cell_units='angstrom'> positions{{angstrom}} </trajectory>
    <!-- Sent by the driver beside energy and forces: the Mulliken charges of the QM atoms, e. -->
    <trajectory filename='qm_charges' stride='{stride}' extra_type='qm_charges'> extras </trajectory>
    <!-- `deltaqmmm run .` goes on from it. By hand: `i-pi run.checkpoint` and the driver; after a kill first `python -m
         deltaqmmm.ipi.going_on input.xml`, which cuts the outputs back, or steps stand there twice. -->
    <checkpoint filename='checkpoint' stride='{checkpoint}' overwrite='True'/>
  </output>
  <total_steps> {steps} </total_steps>
  <prng>
    <seed> {seed} </seed>
  </prng>
  <!-- All {nbeads} bead(s) travel in one message (batch_size). Two runs at once on one machine need two addresses.
       mode='shm' moves the data through shared memory: then the driver's flag for shared memory is needed too. -->
  <ffsocket name='deltaqmmm' mode='unix' pbc='False'>
    <address> {address} </address>
    <batch_size> {nbeads} </batch_size>
    <!-- How often i-PI looks for work, in seconds.{latency_comment} -->
    <latency> {latency} </latency>
  </ffsocket>
  <system>
    <!-- {nbeads_comment} -->
    <initialize nbeads='{nbeads}'>
      <file mode='xyz'> init.xyz </file>
      <velocities mode='thermal' units='kelvin'> {temperature:g} </velocities>
    </initialize>
    <forces>
      <force forcefield='deltaqmmm'/>
    </forces>
    <ensemble>
      <temperature units='kelvin'> {temperature:g} </temperature>
    </ensemble>
    <motion mode='dynamics'>
      <fixcom> True </fixcom>
      <dynamics mode='{ensemble}'>
        <timestep units='femtosecond'> {timestep:g} </timestep>
{thermostat}      </dynamics>
    </motion>
  </system>
</simulation>
"""

_PILE = """\
        <!-- PILE-L: a Langevin thermostat on every normal mode of the ring polymer; tau is that of the centroid. -->
        <thermostat mode='pile_l'>
          <tau units='femtosecond'> 100 </tau>
          <pile_lambda> 0.5 </pile_lambda>
        </thermostat>
"""
_SVR = """\
        <!-- Stochastic velocity rescaling: gentle on the dynamics. -->
        <thermostat mode='svr'>
          <tau units='femtosecond'> 100 </tau>
        </thermostat>
"""


def socket_name(folder_name: str) -> str:
    """An address for the unix socket made from the folder's name: short, and of letters, digits, - and _ only."""
    cleaned = re.sub(r"[^A-Za-z0-9_-]+", "-", folder_name).strip("-")[:40]
    return cleaned or "deltaqmmm"


def input_xml(
    *,
    address: str,
    nbeads: int,
    temperature_kelvin: float,
    timestep_femtosecond: float,
    steps: int,
    ensemble: str,
    seed: int,
    stride: int = 10,
) -> str:
    """A commented i-PI input: path-integral dynamics (classical with one bead) in the nvt or nve ensemble.

    Positions and QM charges are written every `stride` steps.
    """
    if nbeads == 1:
        comment = "One bead: classical nuclei."
    else:
        comment = f"{nbeads} beads: quantum nuclei; liquid water at 300 K is converged with about 32 beads."
    latency, latency_comment = "1e-4", ""
    if nbeads > 1:
        latency, latency_comment = "1e-3", " If it looks sooner, not all beads are there yet, and the batch is split."
    thermostat = "" if ensemble == "nve" else (_SVR if nbeads == 1 else _PILE)
    return _TEMPLATE.format(
        address=escape(address),
        nbeads=nbeads,
        nbeads_comment=comment,
        latency=latency,
        latency_comment=latency_comment,
        temperature=temperature_kelvin,
        timestep=timestep_femtosecond,
        steps=steps,
        stride=stride,
        checkpoint=100,
        ensemble=ensemble,
        seed=seed,
        thermostat=thermostat,
    )


def init_xyz(symbols: Sequence[str], positions: FloatArray, cell: FloatArray | None) -> str:
    """One frame in i-PI's xyz format, positions and cell in angstrom.

    Args:
        symbols: Element of each atom, N.
        positions: Shape (N, 3), bohr.
        cell: Shape (3, 3), bohr, rows are lattice vectors, the first along x and the second in the xy plane (as all the
            readers give them, and as i-PI needs them). None without a periodic box: then a cube of 1000 angstrom is
            written, as i-PI must have a cell.
    """
    lengths, angles = cell_parameters(np.eye(3) * 1000.0 * ANGSTROM if cell is None else cell)
    numbers = "  ".join([f"{length / ANGSTROM:.8f}" for length in lengths] + [f"{angle:.8f}" for angle in angles])
    lines = [str(len(symbols)), f"# CELL(abcABC): {numbers}  cell{{angstrom}} positions{{angstrom}}"]
    for symbol, (x, y, z) in zip(symbols, positions / ANGSTROM, strict=True):
        lines.append(f"{symbol:<2s} {x:16.8f} {y:16.8f} {z:16.8f}")
    return "\n".join(lines) + "\n"


def cell_parameters(cell: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Lengths (same unit as the cell) and angles (degrees; alpha between b and c, and so on), shapes (3,), (3,)."""
    lengths = np.linalg.norm(cell, axis=1)
    unit_vectors = cell / lengths[:, None]
    cosines = np.array(
        [unit_vectors[1] @ unit_vectors[2], unit_vectors[0] @ unit_vectors[2], unit_vectors[0] @ unit_vectors[1]]
    )
    return lengths, np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0)))
