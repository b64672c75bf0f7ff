"""From a TOML file to a checked `Config`, with one clear error for whatever is wrong."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

from deltaqmmm.config.kinds import RejectedValueError
from deltaqmmm.config.sections import (
    SECTIONS,
    Config,
    CorrectionSection,
    DFTBSection,
    DriverSection,
    EmbeddingSection,
    MMSection,
    NetworkSection,
    QMSection,
    ReferenceSection,
    SystemSection,
    TrainingSection,
)
from deltaqmmm.errors import ConfigError

Section = TypeVar(
    "Section",
    SystemSection,
    QMSection,
    DFTBSection,
    EmbeddingSection,
    MMSection,
    ReferenceSection,
    TrainingSection,
    NetworkSection,
    CorrectionSection,
    DriverSection,
)


def read_config(file: Path | str) -> Config:
    """Read and check a configuration file.

    Args:
        file: A TOML file. Relative paths in it are relative to its folder.

    Raises:
        ConfigError: The file is missing or malformed, a section or key is unknown or missing, or a value is impossible.
    """
    file = Path(file)
    document = _parse(file)
    for name, value in document.items():
        if name not in SECTIONS:
            raise ConfigError(_unknown_name(file, name, value))
        if not isinstance(value, dict):
            raise ConfigError(f"{file}: '{name}' is the section [{name}], but was given the value {_shown(value)}.")
    config = Config(
        file=file.resolve(),
        system=_section(SystemSection, "system", document, file),
        qm=_section(QMSection, "qm", document, file),
        dftb=_section(DFTBSection, "dftb", document, file),
        embedding=_section(EmbeddingSection, "embedding", document, file),
        mm=_section(MMSection, "mm", document, file),
        reference=_section(ReferenceSection, "reference", document, file),
        training=_section(TrainingSection, "training", document, file),
        network=_section(NetworkSection, "network", document, file),
        correction=_section(CorrectionSection, "correction", document, file),
        driver=_section(DriverSection, "driver", document, file),
    )
    _check_together(config, document, file)
    return config


def _parse(file: Path) -> dict[str, Any]:
    """Return the TOML document."""
    try:
        with file.open("rb") as stream:
            return tomllib.load(stream)
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such configuration file. `deltaqmmm build` writes one.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read as a configuration file ({error}).") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not valid TOML: {error}.") from error


def _section(declared: type[Section], name: str, document: Mapping[str, Any], file: Path) -> Section:
    """Return one section, every value checked."""
    given = document.get(name, {})
    known = {entry.name: entry for entry in fields(declared)}
    for unknown in given:
        if unknown not in known:
            raise ConfigError(_unknown_key(file, name, unknown, known))
    values = {}
    for key_name, entry in known.items():
        if key_name not in given:
            if entry.default is MISSING:
                raise ConfigError(f"{file}: [{name}] {key_name} is missing: give {entry.metadata['kind'].need}.")
            continue
        try:
            values[key_name] = entry.metadata["kind"].convert(given[key_name], file.resolve().parent)
        except RejectedValueError as rejected:
            raise ConfigError(
                f"{file}: [{name}] {key_name} = {_shown(given[key_name])}: needed is {rejected}."
            ) from None
    return declared(**values)


def _check_together(config: Config, document: Mapping[str, Any], file: Path) -> None:
    """Refuse values that are possible by themselves but not together."""
    if (config.qm.residues is None) == (config.qm.atoms is None):
        got = "neither" if config.qm.residues is None else "both"
        raise ConfigError(
            f"{file}: [qm] takes exactly one of residues and atoms, got {got}: "
            'say for example residues = ["URA"] or atoms = "0-11".'
        )
    embedding = config.embedding
    if embedding.kind == "all":
        for name in ("inner_angstrom", "outer_angstrom", "sharpness_per_bohr"):
            if name in document["embedding"]:
                raise ConfigError(
                    f'{file}: [embedding] {name} has no meaning with kind = "all" (no cutoff): remove it, or take '
                    'kind = "cutoff".'
                )
    elif embedding.inner_angstrom >= embedding.outer_angstrom:
        raise ConfigError(
            f"{file}: [embedding] inner_angstrom = {embedding.inner_angstrom:g} and outer_angstrom = "
            f"{embedding.outer_angstrom:g}: outer_angstrom must be the larger one."
        )
    mm = config.mm
    if mm.switch_angstrom is not None and mm.switch_angstrom >= mm.cutoff_angstrom:
        raise ConfigError(
            f"{file}: [mm] switch_angstrom = {mm.switch_angstrom:g} must be below cutoff_angstrom = "
            f"{mm.cutoff_angstrom:g}: give a smaller one, or 0 to truncate."
        )
    training = config.training
    weights = ("energy_weight", "qm_gradient_weight", "mm_gradient_weight", "mm_potential_weight")
    if all(getattr(training, name) == 0.0 for name in weights):
        raise ConfigError(
            f"{file}: [training] {', '.join(weights)} are all 0: nothing would be learned. Give one of them a positive "
            "value."
        )
    _check_dftb(config, document.get("dftb", {}), file)
    _check_correction(config, document.get("correction", {}), file)


def _check_dftb(config: Config, given: Mapping[str, Any], file: Path) -> None:
    """Refuse keys of [dftb] that the engine does not look at."""
    dftb = config.dftb
    if dftb.engine == "builtin":
        if dftb.hsd is not None:
            raise ConfigError(
                f'{file}: [dftb] hsd is an input of DFTB+, and engine = "builtin" does not read it: take '
                'engine = "dftb+", or remove it.'
            )
        return
    for name in ("solver", "warm_start"):
        if name in given:
            raise ConfigError(
                f'{file}: [dftb] {name} has no meaning with engine = "dftb+", which starts each frame from the charges '
                "of the one before and takes its own solver: remove it."
            )
    if dftb.hsd is None:
        return
    for name in given:
        if name not in ("engine", "library", "hsd", "workers", "timeout_seconds", "threads", "device"):
            raise ConfigError(
                f"{file}: [dftb] {name} has no meaning beside hsd = {dftb.hsd.name}, which is taken as it is: say it "
                "there, and remove it here."
            )


def _check_correction(config: Config, given: Mapping[str, Any], file: Path) -> None:
    """Refuse keys of [correction] that do nothing, and fading by what has no exact gradient."""
    correction = config.correction
    if given and correction.model is None:
        raise ConfigError(
            f"{file}: [correction] has {next(iter(given))} but no model: give the model file, or remove the section."
        )
    by_energy = correction.energy_spread_limit_kj_per_mol is not None
    by_force = correction.force_spread_limit_kj_per_mol_per_angstrom is not None
    for name in ("action", "fade_width", "frames_file", "max_frames", "frames_interval_steps"):
        if name in given and not (by_energy or by_force):
            raise ConfigError(
                f"{file}: [correction] {name} has no meaning without a limit: give energy_spread_limit_kj_per_mol or "
                "force_spread_limit_kj_per_mol_per_angstrom."
            )
    if correction.action == "fade" and not by_energy:
        raise ConfigError(
            f'{file}: [correction] action = "fade" needs energy_spread_limit_kj_per_mol: fading by the force spread '
            "would need second derivatives for forces that conserve energy. Give a limit of the energy, or take "
            "another action."
        )
    if correction.action == "fade" and by_force:
        raise ConfigError(
            f'{file}: [correction] action = "fade" acts on the energy spread alone (its gradient is exact), and '
            "force_spread_limit_kj_per_mol_per_angstrom is given too: remove it, or take another action."
        )
    if "fade_width" in given and correction.action != "fade":
        raise ConfigError(f'{file}: [correction] fade_width has no meaning without action = "fade": remove it.')
    for name in ("max_frames", "frames_interval_steps"):
        if name in given and correction.frames_file is None:
            raise ConfigError(
                f"{file}: [correction] {name} has no meaning without frames_file: give that, or remove it."
            )


def _shown(value: object) -> str:
    """A value as TOML writes it, for messages."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_shown(entry)}" for name, entry in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_shown(entry) for entry in value) + "]"
    return str(value)


def _nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like a name, however bad the likeness of its unit suffix is."""
    matches = difflib.get_close_matches(name.lower(), list(candidates), n=1, cutoff=0.5)
    return matches[0] if matches else None


def _section_of(key_name: str, excluded: str) -> str | None:
    """Another section that has this key."""
    return next(
        (
            name
            for name, declared in SECTIONS.items()
            if name != excluded and any(entry.name == key_name for entry in fields(declared))
        ),
        None,
    )


def _unknown_name(file: Path, name: str, value: object) -> str:
    if not isinstance(value, dict):
        home = _section_of(name, "")
        if home is not None:
            return f"{file}: key '{name}' stands outside any section: move it under [{home}]."
    nearest = _nearest(name, SECTIONS)
    hint = f"did you mean [{nearest}]? " if nearest else ""
    return f"{file}: unknown section or key '{name}': {hint}The sections are {', '.join(f'[{s}]' for s in SECTIONS)}."


def _unknown_key(file: Path, section: str, name: str, known: Iterable[str]) -> str:
    home = _section_of(name, section)
    if home is not None:
        return f"{file}: [{section}] has no key '{name}': it belongs under [{home}]."
    nearest = _nearest(name, known)
    hint = f"did you mean '{nearest}'?" if nearest else f"the keys of [{section}] are {', '.join(known)}."
    return f"{file}: [{section}] has no key '{name}': {hint}"
