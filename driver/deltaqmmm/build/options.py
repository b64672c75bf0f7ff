"""What `build_system` is asked for, and what it reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class BuildOptions:
    """Everything that can be chosen about a new folder. One field is one command-line option.

    Either `molecules` or `topology` must be given: the first builds a solvated system, the second takes an existing
    one.

    Attributes:
        folder: The folder to make. It appears only when everything in it is complete.
        molecules: Solutes, each a SMILES string or the path of a .mol, .sdf or .mol2 file.
        counts: Number of copies of each solute; empty means one of each.
        names: Residue name of each solute (1 to 3 letters or digits); empty means the name in a mol2 file, else QM1,
            QM2, ...
        charges: Net charge of each solute in e; empty, or None for a solute, means the sum of its formal charges.
        charge_scheme: MM charges of the solutes: "gasteiger" (seconds), "bcc" (AM1-BCC with sqm, minutes for 50 atoms)
            or "file" (those in the given mol2 files). The MM charges of a QM solute serve the equilibration only.
        placement: "side_by_side" puts several solutes next to each other; "as_given" keeps the coordinates of the files
            relative to each other (a complex that was prepared elsewhere).
        solute_gap_angstrom: Smallest distance between atoms of two solutes placed side by side.
        water_model: Flexible water model: "qspcfw" (q-SPC/Fw) or "spcfw" (SPC/Fw).
        padding_angstrom: Distance from the solute's outermost atoms to the faces of the box. Default 15 where no other
            size is given. At most one of `padding_angstrom`, `water_count` and `box_edges_angstrom` may be given.
        water_count: Number of water molecules wanted; the box gets the volume they need.
        box_edges_angstrom: One edge (cubic) or three edges (orthorhombic) of the box; it is filled with water.
        box_shape: "cubic" or "orthorhombic" (follows the shape of the solute), used with `padding_angstrom` and
            `water_count`.
        salt_molar: Additional NaCl, in mol per litre of box. Counter-ions for a charged solute are always added.
        qm_residues: Residue names of the QM region. Empty means all solutes; for an existing system this or `qm_atoms`
            is needed.
        qm_atoms: QM atoms of an existing system as zero-based indices and ranges, "0-11,15". Not with `qm_residues`.
        qm_charge: Charge of the QM region of an existing system, in e. None means the nearest integer of its MM
            charges.
        topology: Topology of an existing system: Amber .prmtop/.parm7/.top, GROMACS .top, or OpenMM System .xml.
        coordinates: Its coordinates: Amber .inpcrd/.rst7, GROMACS .gro, or .pdb.
        include_dir: Folder in which the #include lines of a GROMACS topology are looked up beside the topology's own.
        cutoff_angstrom: Cutoff of the MM interactions, at most half the shortest edge of the box. (An OpenMM XML brings
            its own.)
        minimise: Minimise the energy on the MM force field. None means yes for a new system and no for an existing one.
        equilibrate_ps: Length of the MM equilibration in picoseconds (Langevin dynamics, 1 fs step, solute restrained).
            None means 2 ps for a new system, which takes out the strain of packing, and 0 for an existing one.
        pressure_bar: None equilibrates at constant volume; a pressure turns on a Monte-Carlo barostat.
        nbeads: Number of path-integral beads in input.xml; 1 writes a classical simulation.
        temperature_kelvin: Temperature of the equilibration and of input.xml.
        timestep_femtosecond: Time step in input.xml.
        steps: Number of steps in input.xml.
        ensemble: "nvt" or "nve" in input.xml.
        threads: CPU threads, for the preparation and in config.toml; 0 for all that there are, then and at each start
            of the driver.
        seed: Seed of every random choice.
        reproducible: Prepare with one CPU thread, so that the same options and seed give the same files to the last bit
            on the same machine. False uses `threads` threads, faster for large boxes.
        overwrite: Replace an existing folder that is not empty.
        show_progress: Progress bars on standard error.
    """

    folder: Path
    molecules: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    charges: tuple[int | None, ...] = ()
    charge_scheme: str = "gasteiger"
    placement: str = "side_by_side"
    solute_gap_angstrom: float = 3.0
    water_model: str = "qspcfw"
    padding_angstrom: float | None = None
    water_count: int | None = None
    box_edges_angstrom: tuple[float, ...] = ()
    box_shape: str = "cubic"
    salt_molar: float = 0.0
    qm_residues: tuple[str, ...] = ()
    qm_atoms: str = ""
    qm_charge: int | None = None
    topology: Path | None = None
    coordinates: Path | None = None
    include_dir: Path | None = None
    cutoff_angstrom: float = 9.0
    minimise: bool | None = None
    equilibrate_ps: float | None = None
    pressure_bar: float | None = None
    nbeads: int = 4
    temperature_kelvin: float = 300.0
    timestep_femtosecond: float = 0.5
    steps: int = 1000
    ensemble: str = "nvt"
    threads: int = 0
    seed: int = 1
    reproducible: bool = True
    overwrite: bool = False
    show_progress: bool = True


@dataclass(frozen=True)
class BuildReport:
    """What was built.

    Attributes:
        folder: The finished folder.
        n_atoms: Number of atoms, virtual sites not counted.
        n_qm: Number of QM atoms.
        n_waters: Number of water molecules.
        n_ions: Number of counter-ions and salt ions added.
        qm_residues: Residue names in the QM region.
        qm_charge: Charge of the QM region in e.
        cell_angstrom: Lengths of the three cell vectors in angstrom, or None without a periodic box.
        socket_name: Address of the unix socket in input.xml.
        minimised_energy_kj_per_mol: MM energy after minimisation, None where it was not asked for.
        seconds: Wall time of each stage.
        notes: Things the user should know (what was assumed, added or left out).
    """

    folder: Path
    n_atoms: int
    n_qm: int
    n_waters: int
    n_ions: int
    qm_residues: tuple[str, ...]
    qm_charge: int
    cell_angstrom: tuple[float, float, float] | None
    socket_name: str
    minimised_energy_kj_per_mol: float | None
    seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
