"""Solutes: from a SMILES string or a molecule file to a named three-dimensional structure with all hydrogens.

Lengths are in angstrom here, as in every file and program that this package meets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import AllChem, rdDistGeom, rdForceFieldHelpers

from deltaqmmm.errors import InputError
from deltaqmmm.results import FloatArray

MOLECULE_SUFFIXES = (".mol", ".sdf", ".mol2")
GAFF_ELEMENTS = frozenset({"H", "C", "N", "O", "F", "P", "S", "Cl", "Br", "I"})
"""Elements that the GAFF2 force field has parameters for."""
RESERVED_NAMES = frozenset({"WAT", "HOH", "SOL", "NA", "CL", "NA+", "CL-", "K", "EP"})

_VOLUME_RATIO = 1.5
"""Volume that a solute takes in water over its van der Waals volume: 1.3 (uracil) to 1.7 (benzene) from partial molar
volumes."""


@dataclass(frozen=True)
class Solute:
    """One kind of solute molecule.

    Attributes:
        source: The SMILES string or file it came from, for messages.
        residue_name: Residue name in the topology.
        molecule: The RDKit molecule, hydrogens explicit, with one conformer (angstrom).
        atom_names: Unique atom names, in atom order.
        charge: Net charge, e.
        count: Number of copies.
        partial_charges: Charges from a mol2 file, shape (n,), e; None where there are none.
        volume: Estimated volume that one copy takes in water, cubic angstrom.
    """

    source: str
    residue_name: str
    molecule: Chem.Mol
    atom_names: tuple[str, ...]
    charge: int
    count: int
    partial_charges: FloatArray | None
    volume: float

    @property
    def symbols(self) -> tuple[str, ...]:
        """Element symbols in atom order."""
        return tuple(atom.GetSymbol() for atom in self.molecule.GetAtoms())

    @property
    def positions(self) -> FloatArray:
        """Positions, shape (n, 3), angstrom."""
        return np.asarray(self.molecule.GetConformer().GetPositions(), dtype=np.float64)


def read_solutes(
    sources: Sequence[str],
    counts: Sequence[int],
    names: Sequence[str],
    charges: Sequence[int | None],
    seed: int,
) -> tuple[Solute, ...]:
    """Read all solutes and give each a residue name of its own.

    Args:
        sources: SMILES strings or paths of molecule files.
        counts: Copies of each solute, or empty.
        names: Residue names, or empty.
        charges: Net charges in e (None: from formal charges), or empty.
        seed: Seed of the conformer generation.

    Raises:
        InputError: A source cannot be read, a list has another length than `sources`, a name is taken twice, or a
        solute is an
            open shell.
    """
    for what, values in (("counts", counts), ("names", names), ("charges", charges)):
        if values and len(values) != len(sources):
            raise InputError(
                f"{len(values)} {what} were given for {len(sources)} molecules ({', '.join(sources)}). "
                f"Give one of the {what} for each molecule, in the same order, or none at all."
            )
    solutes: list[Solute] = []
    for number, source in enumerate(sources):
        solute = read_solute(source, charges[number] if charges else None, seed)
        name = names[number] if names else (solute.residue_name or f"QM{number + 1}")
        count = counts[number] if counts else 1
        if count < 1:
            raise InputError(f"{count} copies of {source} were asked for. A count must be 1 or more.")
        solutes.append(replace(solute, residue_name=_checked_name(name), count=count))
    seen: dict[str, str] = {}
    for solute in solutes:
        if solute.residue_name in seen:
            raise InputError(
                f"The residue name {solute.residue_name} is used for both {seen[solute.residue_name]} and "
                f"{solute.source}. Give each molecule a name of its own, or one molecule with a count of 2 or more."
            )
        seen[solute.residue_name] = solute.source
    return tuple(solutes)


def read_solute(source: str, charge: int | None, seed: int) -> Solute:
    """Read one solute: sanitise, add hydrogens, make a 3D structure where the source has none, check the electrons.

    The residue name is that of a mol2 file, else empty.
    """
    path = Path(source)
    is_file = path.suffix.lower() in MOLECULE_SUFFIXES or path.is_file()
    molecule = _read_file(path) if is_file else _read_smiles(source)
    fragments = len(Chem.GetMolFrags(molecule))
    if fragments != 1:
        raise InputError(
            f"{source} holds {fragments} separate molecules; a solute is one molecule. Give each of them on its own "
            "(counter-ions are added by the program)."
        )
    given_charges = _mol2_charges(molecule)
    n_given = molecule.GetNumAtoms()
    has_structure = molecule.GetNumConformers() > 0 and molecule.GetConformer().Is3D()
    molecule = Chem.AddHs(molecule, addCoords=has_structure)
    _check_elements(source, molecule)
    if not has_structure:
        molecule = _embed(source, molecule, seed)
    net_charge = int(Chem.GetFormalCharge(molecule)) if charge is None else charge
    _check_closed_shell(source, molecule, net_charge)
    return Solute(
        source=source,
        residue_name=_mol2_residue_name(path) if is_file else "",
        molecule=molecule,
        atom_names=_atom_names(molecule),
        charge=net_charge,
        count=1,
        partial_charges=given_charges if n_given == molecule.GetNumAtoms() else None,
        volume=_VOLUME_RATIO * float(AllChem.ComputeMolVolume(molecule)),  # type: ignore[no-untyped-call]
    )


def _read_smiles(text: str) -> Chem.Mol:
    with rdBase.BlockLogs():
        molecule: Chem.Mol | None = Chem.MolFromSmiles(text)
    if molecule is None or molecule.GetNumAtoms() == 0:
        raise InputError(
            f"{text!r} is neither a file that exists nor a SMILES string that RDKit can read. Check the SMILES "
            "(parentheses, ring numbers, valences), or the path and the ending of the file (.mol, .sdf, .mol2)."
        )
    return molecule


def _read_file(path: Path) -> Chem.Mol:
    """Read the one molecule of a .mol, .sdf or .mol2 file."""
    if not path.is_file():
        raise InputError(f"The molecule file {path} does not exist. Give the path of a .mol, .sdf or .mol2 file.")
    suffix = path.suffix.lower()
    if suffix not in MOLECULE_SUFFIXES:
        raise InputError(f"{path} ends in {suffix or 'nothing'}; molecule files may be .mol, .sdf or .mol2.")
    text = path.read_text(errors="replace")
    records = text.count("@<TRIPOS>MOLECULE") if suffix == ".mol2" else max(1, text.count("$$$$"))
    if records > 1:
        raise InputError(f"{path} holds {records} molecules; one is needed. Split it and give the files one by one.")
    read = Chem.MolFromMol2Block if suffix == ".mol2" else Chem.MolFromMolBlock
    with rdBase.BlockLogs():
        molecule: Chem.Mol | None = read(text, removeHs=False)
    if molecule is None or molecule.GetNumAtoms() == 0:
        raise InputError(
            f"RDKit cannot make sense of the molecule in {path}. Check its atoms, bond orders and formal charges; a "
            "mol2 file needs Sybyl (not GAFF) atom types; saving it again as .sdf often helps."
        )
    return molecule


def _embed(source: str, molecule: Chem.Mol, seed: int) -> Chem.Mol:
    """Make a 3D structure: ETKDG distance geometry, then MMFF94 (or UFF where that lacks parameters)."""
    for random_start in (False, True):
        conformer = rdDistGeom.EmbedMolecule(
            molecule,
            randomSeed=seed,
            useRandomCoords=random_start,
            useSmallRingTorsions=True,
            useMacrocycleTorsions=True,
        )
        if conformer == 0:
            break
    else:
        raise InputError(f"No 3D structure was found for {source}. Give a .mol or .sdf file with 3D coordinates.")
    if rdForceFieldHelpers.MMFFHasAllMoleculeParams(molecule):
        rdForceFieldHelpers.MMFFOptimizeMolecule(molecule, maxIters=2000)
    elif rdForceFieldHelpers.UFFHasAllMoleculeParams(molecule):
        rdForceFieldHelpers.UFFOptimizeMolecule(molecule, maxIters=2000)
    return molecule


def _check_elements(source: str, molecule: Chem.Mol) -> None:
    unknown = sorted({atom.GetSymbol() for atom in molecule.GetAtoms()} - GAFF_ELEMENTS)
    if unknown:
        raise InputError(
            f"{source} contains {', '.join(unknown)}, for which GAFF2 has no parameters "
            f"(it has {', '.join(sorted(GAFF_ELEMENTS))}). Make the topology with another program and give it with "
            "its coordinates as an existing system."
        )
    if molecule.GetNumAtoms() < 2:
        raise InputError(
            f"{source} is a single atom; GAFF2 describes molecules. Give it as part of an existing system."
        )


def _check_closed_shell(source: str, molecule: Chem.Mol, charge: int) -> None:
    electrons = sum(atom.GetAtomicNum() for atom in molecule.GetAtoms()) - charge
    radicals = sum(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms())
    if electrons % 2:
        raise InputError(
            f"{source} with charge {charge:+d} has {electrons} electrons, an odd number; only closed shells can be "
            "computed. Check the structure and its charge."
        )
    if radicals:
        raise InputError(
            f"{source} has {radicals} unpaired electrons; only closed shells can be computed. "
            "Check the valences and hydrogens of the structure."
        )


def _checked_name(name: str) -> str:
    cleaned = name.strip().upper()
    if not re.fullmatch(r"[A-Z0-9]{1,3}", cleaned) or cleaned in RESERVED_NAMES:
        raise InputError(
            f"{name!r} cannot be a residue name: it must be 1 to 3 letters or digits, and none of "
            f"{', '.join(sorted(RESERVED_NAMES))}."
        )
    return cleaned


def _mol2_residue_name(path: Path) -> str:
    """The residue name in a mol2 file, without its number, or "" where there is none that can be used."""
    if path.suffix.lower() != ".mol2":
        return ""
    # RDKit does not keep the residue name: it is the eighth word of an atom line.
    first = path.read_text(errors="replace").partition("@<TRIPOS>ATOM")[2].strip().partition("\n")[0].split()
    name = first[7].upper() if len(first) > 7 else ""
    name = name if re.fullmatch(r"[A-Z0-9]{1,3}", name) else name.rstrip("0123456789")
    usable = re.fullmatch(r"[A-Z0-9]{1,3}", name) is not None and name not in RESERVED_NAMES and name != "UNL"
    return name if usable else ""


def _mol2_charges(molecule: Chem.Mol) -> FloatArray | None:
    if not all(atom.HasProp("_TriposPartialCharge") for atom in molecule.GetAtoms()):
        return None
    return np.array([float(atom.GetProp("_TriposPartialCharge")) for atom in molecule.GetAtoms()], dtype=np.float64)


def _atom_names(molecule: Chem.Mol) -> tuple[str, ...]:
    """Names from the file where they are unique and fit into four characters, else element and number."""
    atoms = list(molecule.GetAtoms())
    given = [atom.GetProp("_TriposAtomName") if atom.HasProp("_TriposAtomName") else "" for atom in atoms]
    usable = [name if re.fullmatch(r"[A-Za-z][A-Za-z0-9']{0,3}", name) else "" for name in given]
    if all(usable) and len(set(usable)) == len(usable):
        return tuple(usable)
    names = []
    numbers: dict[str, int] = {}
    for atom in atoms:
        symbol = atom.GetSymbol()
        numbers[symbol] = numbers.get(symbol, 0) + 1
        names.append(f"{symbol}{numbers[symbol]}")
    return tuple(names)
