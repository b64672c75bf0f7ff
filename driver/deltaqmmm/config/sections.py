"""The sections and keys of the configuration file: their kinds, defaults and meaning, in the units the file uses.

This is the one place where a key is declared. Reading, the messages about wrong values and the table that
`deltaqmmm config` prints all follow from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deltaqmmm.config.kinds import (
    Kind,
    RejectedValueError,
    atom_numbers,
    boolean,
    choice,
    element_table,
    file_path,
    integer,
    integers,
    key,
    names,
    number,
    path,
    text,
)


def _device() -> Kind:
    need = '"cpu", "cuda", "cuda:N" or "auto"'

    def convert(value: object, _: Path) -> str:
        if not isinstance(value, str) or not re.fullmatch(r"cpu|auto|cuda(:\d+)?", value.lower()):
            raise RejectedValueError(need)
        return value.lower()

    return Kind(need, convert)


@dataclass(frozen=True)
class SystemSection:
    """[system]: the molecular topology."""

    topology: Path = key(path(), "Amber prmtop, GROMACS .top or OpenMM System XML, told apart by content")
    coordinates: Path | None = key(
        path(),
        "Amber inpcrd/rst7, .gro or .pdb with the same particles: checks the atom order, and lets the driver warm up",
        None,
    )
    include_folder: Path | None = key(path(folder=True), "where the includes of a GROMACS topology are searched", None)


@dataclass(frozen=True)
class QMSection:
    """[qm]: the QM region; give `residues` or `atoms`."""

    residues: tuple[str, ...] | None = key(names(), "residue names: every residue of these names is QM", None)
    atoms: str | tuple[int, ...] | None = key(
        atom_numbers(), "atoms as i-PI counts them, from 0, virtual sites not counted", None
    )
    charge: int = key(integer(), "total charge of the QM region, e", 0)


@dataclass(frozen=True)
class DFTBSection:
    """[dftb]: the electronic structure method of the QM region."""

    engine: str = key(
        choice("builtin", "dftb+"), "what computes it: this package, or the library of DFTB+ (README)", "builtin"
    )
    model: str = key(choice("dftb3", "dftb2"), "full third order (DFTB3) or second order (DFTB2)", "dftb3")
    parameters: str = key(text(), "name of the Slater-Koster set, which is also the name of its folder", "3ob-3-1")
    parameter_folder: Path | None = key(
        path(folder=True),
        "folder of the A-B.skf files; if absent, sought in DFTB_PREFIX, $AMBERHOME/dat/slko, the AmberTools wheel",
        None,
    )
    hubbard_derivatives: Mapping[str, float] | None = key(
        element_table(number()), "dU/dq by element, hartree/e: adds to and overrides the built-in 3ob values", None
    )
    highest_shells: Mapping[str, int] | None = key(
        element_table(integer(minimum=0, maximum=2)),
        "highest angular momentum by element (s 0, p 1, d 2): adds to and overrides the built-in values",
        None,
    )
    hydrogen_damping_exponent: float = key(
        number(minimum=0.0),
        "zeta of the damped gamma of pairs with hydrogen (DFTB3 only); 0: no damping",
        4.0,
    )
    electronic_temperature_kelvin: float = key(
        number(minimum=0.0, maximum=1e5), "temperature of the Fermi filling; 0 fills the lowest orbitals", 0.0
    )
    scc_tolerance: float = key(
        number(above=0.0, maximum=1e-3), "largest change of any Mulliken charge in the last SCC cycle, e", 1e-8
    )
    max_scc_iterations: int = key(integer(minimum=1), "SCC cycles of the first attempt; safer retries take more", 100)
    dispersion: str = key(
        choice("none", "d3bj"),
        "dispersion correction of the QM region: D3 with BJ damping, with the parameters of DFTB3 for either model",
        "none",
    )
    warm_start: bool = key(boolean(), "start the SCC from charges extrapolated along the frame's own trajectory", True)
    solver: str = key(
        choice("auto", "diagonalisation", "purification"),
        "from the Hamiltonian to the density; purification: matrix products only, for graphics cards; auto: the faster "
        "one, measured at the start of a run on a graphics card",
        "auto",
    )
    threads: int = key(
        integer(minimum=0),
        "cores for DFTB, embedding and correction; 0: a quarter of those of [driver] threads, and at least one",
        0,
    )
    device: str = key(_device(), 'where torch computes; "auto" takes a CUDA device if there is one', "cpu")
    library: Path | None = key(
        path(any_kind=True),
        "DFTB+'s libdftbplus.so or a folder that holds it; absent: searched (DFTBPLUS_LIBRARY, active environments)",
        None,
    )
    hsd: Path | None = key(
        path(), "DFTB+: your own input instead of one written from these keys; geometry and potential are set", None
    )
    workers: int = key(
        integer(minimum=0), "DFTB+: processes that share the frames of a batch; 0: one for each core of `threads`", 0
    )
    timeout_seconds: float = key(
        number(above=0.0), "DFTB+: longest time for one frame, after which its process is ended", 600.0
    )


@dataclass(frozen=True)
class EmbeddingSection:
    """[embedding]: the MM charges that the QM region feels."""

    kind: str = key(choice("cutoff", "all"), "groups within a cutoff, or all of them (isolated systems only)", "cutoff")
    inner_angstrom: float = key(number(minimum=0.0), "below this distance a group has its full charges", 12.0)
    outer_angstrom: float = key(number(minimum=3.0), "from this distance on a group has no charges", 14.0)
    sharpness_per_bohr: float = key(
        number(above=0.0), "sharpness of the smooth minimum that defines a group's distance from the QM region", 4.0
    )
    charge_blur_angstrom: float = key(
        number(minimum=0.0), "width b of Gaussian MM charges, whose potential is erf(r/b)/r; 0: point charges", 0.0
    )


@dataclass(frozen=True)
class MMSection:
    """[mm]: molecular mechanics with OpenMM. The distances hold for Amber and GROMACS files; an XML brings its own."""

    platform: str = key(
        choice("auto", "CPU", "CUDA", "OpenCL", "HIP", "Reference"), 'OpenMM platform; "auto" takes the fastest', "auto"
    )
    precision: str = key(
        choice("single", "mixed", "double"), "on GPU platforms; CPU is always single, Reference always double", "mixed"
    )
    threads: int = key(
        integer(minimum=0), "threads of the CPU platform; 0: what [dftb] threads leaves of [driver] threads", 0
    )
    deterministic: bool = key(
        boolean(), "sum forces in a fixed order: with one thread, equal positions give equal bits", True
    )
    cutoff_angstrom: float = key(
        number(minimum=2.0), "Lennard-Jones and direct-space Ewald cutoff, at most half the box", 9.0
    )
    switch_angstrom: float | None = key(
        number(minimum=0.0),
        "where Lennard-Jones begins to be switched off; absent: 1 angstrom before the cutoff; 0: truncated",
        None,
    )
    ewald_tolerance: float | None = key(
        number(above=0.0, maximum=0.05), "Ewald error tolerance; absent: 5e-5, and 1e-5 if the virial is computed", None
    )
    dispersion_correction: bool = key(boolean(), "add the mean-field Lennard-Jones energy beyond the cutoff", True)
    virial: bool = key(boolean(), "also compute the virial, which barostats need: 12 more MM energies per frame", False)


@dataclass(frozen=True)
class ReferenceSection:
    """[reference]: the method of `deltaqmmm label`, computed by PySCF for the QM region in the same charges."""

    functional: str = key(text(), 'functional by PySCF\'s name ("pbe0", "b3lyp", "wb97x", ...), or "hf"', "pbe0")
    basis: str = key(text(), "basis set by PySCF's name", "def2-svp")
    density_fitting: bool = key(
        boolean(), "fit the density in the Coulomb and exchange terms: several times faster", True
    )
    auxiliary_basis: str | None = key(text(), "basis of the density fit; absent: PySCF's choice for the basis", None)
    grid_level: int = key(integer(minimum=0, maximum=9), "PySCF's level of the integration grid", 3)
    grid_response: bool = key(
        boolean(), "let the gradients include the motion of the grid: then they are the exact derivative", True
    )
    dispersion: str = key(
        choice("none", "d3bj"), "dispersion correction: D3 with BJ damping and the functional's parameters", "d3bj"
    )
    energy_tolerance_hartree: float = key(
        number(above=0.0, maximum=1e-4), "largest change of the energy in the last SCF cycle", 1e-9
    )
    max_scf_cycles: int = key(integer(minimum=1), "SCF cycles of the first attempt; safer retries take more", 60)
    memory_megabyte: int = key(integer(minimum=200), "memory that PySCF may use in each process", 4000)
    device: str = key(
        choice("cpu", "cuda", "auto"), '"cuda" computes with gpu4pyscf; "auto" does where it is installed', "cpu"
    )


@dataclass(frozen=True)
class TrainingSection:
    """[training]: how `deltaqmmm train` fits networks to labels. The loss is the sum of weighted mean square errors."""

    target: str = key(
        choice("delta", "direct"), '"delta" learns reference minus baseline, "direct" the reference alone', "delta"
    )
    members: int = key(integer(minimum=1), "networks in the committee; the spread needs two or more", 4)
    seed: int = key(integer(minimum=0), "from which all random numbers follow", 1)
    validation_fraction: float = key(
        number(above=0.0, maximum=0.5), "part of the frames that each member is judged by and does not learn from", 0.1
    )
    epochs: int = key(integer(minimum=1), "at most; the learning rate falls to a hundredth over this time", 200)
    batch_size: int = key(integer(minimum=1), "frames per step", 8)
    learning_rate: float = key(number(above=0.0, maximum=1.0), "of the AdamW optimiser at the start", 1e-2)
    weight_decay: float = key(
        number(minimum=0.0),
        "of that optimiser: the larger, the smoother are the networks, and the slower they learn",
        0.03,
    )
    energy_weight: float = key(number(minimum=0.0), "of squared energy errors in kJ/mol", 3.0)
    qm_gradient_weight: float = key(
        number(minimum=0.0), "of squared errors of QM gradient components in kJ/mol/angstrom", 1.0
    )
    mm_gradient_weight: float = key(
        number(minimum=0.0), "of squared errors of MM gradient components in kJ/mol/angstrom", 200.0
    )
    mm_potential_weight: float = key(
        number(minimum=0.0), "of squared errors of the potential at MM sites (derivatives by charges) in kJ/mol/e", 20.0
    )
    mm_gradient_cutoff_angstrom: float = key(
        number(above=0.0),
        "MM sites this close to a QM atom enter the loss with their gradients; beyond 6 angstrom a sample of them",
        14.0,
    )
    patience: int = key(integer(minimum=1), "epochs without improvement of any member after which training ends", 100)
    hidden: tuple[int, ...] = key(integers(minimum=1), "widths of the hidden layers of each network", (64, 64))
    smallest_variance: float = key(
        number(above=0.0, below=1.0),
        "networks see uncorrelated combinations of the symmetry functions; those whose variance is below this part of "
        "the mean are left out",
        1e-3,
    )
    whitening: float = key(
        number(minimum=0.0, maximum=0.5),
        "how far combinations of small variance are enlarged: 0 not at all, 0.5 to the size of the others, noise too",
        0.15,
    )
    averaging: float = key(
        number(minimum=0.0, below=1.0),
        "part of the old values in the running average of the weights, per step; this average is kept; 0: no average",
        0.98,
    )
    threads: int = key(integer(minimum=0), "CPU threads of torch; 0: as torch chooses, mostly all cores", 0)


@dataclass(frozen=True)
class NetworkSection:
    """[network]: the symmetry functions that the networks of `deltaqmmm train` see."""

    qm_cutoff_angstrom: float = key(number(above=0.0), "of radial functions over QM neighbours", 6.0)
    angular_cutoff_angstrom: float = key(number(above=1.2), "of angular functions over pairs of QM neighbours", 4.5)
    mm_cutoff_angstrom: float = key(number(above=0.8), "of functions over all MM sites", 14.0)
    mm_near_cutoff_angstrom: float = key(
        number(above=0.8), "of more functions over the near MM sites; at most the one above", 6.0
    )
    mm_type_by: str = key(
        choice("element", "name", "none"),
        'what tells MM sites apart: their element, "residue:atom", or nothing',
        "element",
    )
    mm_weight: str = key(
        choice("charge", "count"),
        "what weights an MM site: its effective charge, or the weight of its group alone",
        "charge",
    )
    qm_radial_functions: int = key(integer(minimum=1), "Gaussians over QM neighbours of each element", 12)
    angular_radial_functions: int = key(integer(minimum=1), "radial parts of the angular functions", 2)
    angular_order: int = key(integer(minimum=2), "highest power of the cosine in the angular functions, 2 to 6", 3)
    mm_radial_functions: int = key(
        integer(minimum=0),
        "Gaussians over all MM sites of each type; 0, and no cosines either: the potential and field of the sites",
        0,
    )
    mm_wave_functions: int = key(integer(minimum=0), "cosines over all MM sites of each type", 0)
    mm_near_radial_functions: int = key(integer(minimum=0), "Gaussians over near MM sites of each type", 4)


@dataclass(frozen=True)
class CorrectionSection:
    """[correction]: a model of `deltaqmmm train`, and what happens where its members disagree."""

    model: Path | None = key(
        file_path(), 'model file; a "delta" one adds to DFTB, a "direct" one replaces it; absent: no correction', None
    )
    include_offset: bool = key(
        boolean(),
        "let the energy include the constant part of the model (energies of atoms); false for i-PI's weighted "
        "baseline, which multiplies the correction",
        True,
    )
    committee_extras: bool = key(
        boolean(),
        "send every member's energy, forces and virial (zeros without [mm] virial) as i-PI's <ffcommittee> reads them",
        False,
    )
    energy_spread_limit_kj_per_mol: float | None = key(
        number(above=0.0), "largest standard deviation of the members' energies; absent: no limit", None
    )
    force_spread_limit_kj_per_mol_per_angstrom: float | None = key(
        number(above=0.0), "largest standard deviation of the members' forces on any atom; absent: no limit", None
    )
    action: str = key(
        choice("warn", "stop", "fade"),
        "above a limit: warn; or end the run, with nothing sent; or, above that of the energy, scale the correction "
        "down smoothly, forces and energy alike",
        "warn",
    )
    fade_width: float = key(
        number(above=1.0, maximum=1e3), "the scale is 0 from this many times the limit of the energy on", 2.0
    )
    frames_file: Path | None = key(
        file_path(), "extended xyz file to which frames above a limit are appended, for labelling; absent: none", None
    )
    max_frames: int = key(integer(minimum=1), "frames that this file may hold", 200)
    frames_interval_steps: int = key(
        integer(minimum=1),
        "steps from one frame written to the next, at least; a step is one exchange with i-PI, of a bead or a batch",
        10,
    )


@dataclass(frozen=True)
class DriverSection:
    """[driver]: how `deltaqmmm drive` runs; --wait and --reconnect override two of these keys."""

    threads: int = key(
        integer(minimum=0),
        "cores to use in all, for MM and the QM side at the same time; 0: as many as there are",
        0,
    )
    wait_seconds: float = key(number(minimum=0.0), "how long to wait for i-PI's socket to appear", 60.0)
    reconnect_seconds: float = key(
        number(minimum=0.0), "how long to look for i-PI again after a lost connection; 0 ends the run", 0.0
    )
    status_seconds: float = key(number(above=0.0), "time between two status lines", 10.0)


@dataclass(frozen=True)
class Config:
    """A whole configuration file, checked.

    Attributes:
        file: The file it came from, absolute.
        system: Section [system].
        qm: Section [qm].
        dftb: Section [dftb].
        embedding: Section [embedding].
        mm: Section [mm].
        reference: Section [reference].
        training: Section [training].
        network: Section [network].
        correction: Section [correction].
        driver: Section [driver].
    """

    file: Path
    system: SystemSection
    qm: QMSection
    dftb: DFTBSection
    embedding: EmbeddingSection
    mm: MMSection
    reference: ReferenceSection
    training: TrainingSection
    network: NetworkSection
    correction: CorrectionSection
    driver: DriverSection


SECTIONS: Mapping[
    str,
    type[SystemSection]
    | type[QMSection]
    | type[DFTBSection]
    | type[EmbeddingSection]
    | type[MMSection]
    | type[ReferenceSection]
    | type[TrainingSection]
    | type[NetworkSection]
    | type[CorrectionSection]
    | type[DriverSection],
] = {
    "system": SystemSection,
    "qm": QMSection,
    "dftb": DFTBSection,
    "embedding": EmbeddingSection,
    "mm": MMSection,
    "reference": ReferenceSection,
    "training": TrainingSection,
    "network": NetworkSection,
    "correction": CorrectionSection,
    "driver": DriverSection,
}
"""Section name to the dataclass that declares its keys, in the order of the documentation."""
