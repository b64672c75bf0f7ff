"""The molecules, and their boxes of water: built once and kept in a folder."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Molecule:
    """A QM region.

    Attributes:
        key: Its name in files and options.
        title: Its name in tables and figures.
        smiles: One SMILES string for each of its molecules.
        residues: Their residue names.
        n_atoms: Number of QM atoms.
        charge: Total charge, e.
    """

    key: str
    title: str
    smiles: tuple[str, ...]
    residues: tuple[str, ...]
    n_atoms: int
    charge: int


MOLECULES = {
    molecule.key: molecule
    for molecule in (
        Molecule("benzene", "benzene", ("c1ccccc1",), ("BEN",), 12, 0),
        Molecule("uracil", "uracil", ("O=c1cc[nH]c(=O)[nH]1",), ("URA",), 12, 0),
        Molecule("retinoate", "retinoate", ("CC1=C(C(C)(C)CCC1)/C=C/C(C)=C/C=C/C(C)=C/C([O-])=O",), ("RET",), 49, -1),
        Molecule(
            "sam_cytosine",
            "SAM and cytosine",
            (
                "C[S+](CC[C@H]([NH3+])C([O-])=O)C[C@H]1O[C@@H](n2cnc3c(N)ncnc32)[C@H](O)[C@@H]1O",
                "Nc1cc[nH]c(=O)n1",
            ),
            ("SAM", "CYT"),
            63,
            1,
        ),
    )
}


@dataclass(frozen=True)
class Box:
    """A molecule in water, ready to run.

    Attributes:
        molecule: The QM region.
        folder: Holds config.toml, system.prmtop, system.rst7 and init.xyz.
        n_atoms: Number of atoms.
        outer_angstrom: Where the embedding ends; None for the default.
    """

    molecule: Molecule
    folder: Path
    n_atoms: int
    outer_angstrom: float | None = None

    @property
    def label(self):
        """Name in file names."""
        return self.folder.name


def prepare_box(molecule, n_atoms, cache, say):
    """The box of a molecule with about this many atoms; it is built if the cache has none.

    The MM charges of the QM molecules are Gasteiger's: they serve the preparation only.
    """
    folder = cache / f"{molecule.key}_{n_atoms}"
    if not (folder / "config.toml").is_file():
        from deltaqmmm.build import BuildOptions, build_system

        say(f"building {molecule.title} in water, {n_atoms} atoms")
        waters = round((n_atoms - molecule.n_atoms - abs(molecule.charge)) / 3)
        build_system(
            BuildOptions(
                folder=folder,
                molecules=molecule.smiles,
                names=molecule.residues,
                water_count=waters,
                reproducible=False,
                show_progress=False,
            )
        )
    return Box(molecule, folder, atoms_in(folder))


def quick_box(cache):
    """The box of `ipi_inputs`, uracil and 350 waters: nothing has to be built."""
    folder = cache / "quick_uracil"
    if not (folder / "config.toml").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        for file in (ROOT / "ipi_inputs" / "system").iterdir():
            shutil.copy(file, folder)
        text = (ROOT / "ipi_inputs" / "pimd" / "config.toml").read_text()
        (folder / "config.toml").write_text(text.replace("../system/", ""))
    return Box(MOLECULES["uracil"], folder, atoms_in(folder))


def atoms_in(folder):
    """Number of atoms of a box."""
    with (folder / "init.xyz").open() as file:
        return int(file.readline())


def write_config(box, file, *, threads=1, torch_threads=1, device="cpu"):
    """A configuration of the box: as `deltaqmmm build` writes it, but for threads, device and cutoff.

    Args:
        box: The box.
        file: Where to write.
        threads: Of OpenMM: [driver] threads.
        torch_threads: [dftb] threads; the default is 1.
        device: "cpu" or "cuda": where DFTB, embedding and MM are computed.
    """
    text = (box.folder / "config.toml").read_text()
    text = re.sub(r'"(system\.\w+)"', lambda match: f'"{(box.folder / match[1]).resolve()}"', text)
    text = _set(text, "driver", "threads", threads)
    text = _set(text, "dftb", "threads", torch_threads)
    text = _set(text, "dftb", "device", f'"{device}"')
    text = _set(text, "mm", "platform", '"CUDA"' if device.startswith("cuda") else '"CPU"')
    if box.outer_angstrom is not None:
        text = _set(text, "embedding", "outer_angstrom", box.outer_angstrom)
        text = _set(text, "embedding", "inner_angstrom", box.outer_angstrom - 2.0)
    file.write_text(text)
    return file


def _set(text, section, key, value):
    """The text of a configuration with one key set."""
    head, opening, rest = text.partition(f"[{section}]\n")
    body, closing, tail = rest.partition("\n[")
    body, count = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", body)
    if not count:
        body = f"{key} = {value}\n{body}"
    return head + opening + body + closing + tail
