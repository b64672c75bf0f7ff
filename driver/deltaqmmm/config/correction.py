"""From the [correction] section to a model that is bound to the system, and to its guard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from deltaqmmm.committee import CommitteeSettings, Fade
from deltaqmmm.config.labels import label_settings
from deltaqmmm.config.sections import Config
from deltaqmmm.dataset.contents import canonical
from deltaqmmm.errors import ConfigError, ModelError
from deltaqmmm.guard import FrameFile, Guard, SpreadLimits
from deltaqmmm.ml import CommitteeModel, Correction, ModelInfo, load_model
from deltaqmmm.system import System
from deltaqmmm.units import ANGSTROM, KJ_PER_MOL


@dataclass(frozen=True)
class LoadedCorrection:
    """A model, ready to compute.

    Attributes:
        info: What the model is.
        engine: The model bound to the system.
        committee: What is made of its members.
        guard: What watches them during a run; None without limits.
    """

    info: ModelInfo
    engine: Correction
    committee: CommitteeSettings
    guard: Guard | None


def read_model(config: Config) -> CommitteeModel | None:
    """The model of [correction], or None.

    Raises:
        ModelError: The file cannot be used.
    """
    return None if config.correction.model is None else load_model(config.correction.model)


def bind_correction(config: Config, model: CommitteeModel, system: System, device: torch.device) -> LoadedCorrection:
    """Check a model against the configuration, and bind it to the system.

    Args:
        config: The configuration.
        model: Its model.
        system: The QM/MM split.
        device: Where the model computes.

    Raises:
        ModelError: The model was made for another embedding or baseline, or does not know an element or MM type.
        ConfigError: The model has one member, and something is asked of it that needs several.
        FrameError: The file for frames holds something else.
    """
    section = config.correction
    # Another molecule has other settings too, and its elements say what is wrong.
    try:
        engine = model.bind(
            system.qm_symbols, system.site_symbols, system.site_types, system.site_charges, device=device
        )
    except ModelError as error:
        raise ModelError(f"{section.model}: {error}") from error
    check_settings(config, model.info, system)
    limits = spread_limits(config)
    limited = limits.energy is not None or limits.force is not None
    if model.info.n_members < 2 and (limited or section.committee_extras):
        raise ConfigError(
            f"{config.file}: [correction] {'limits of the spread' if limited else 'committee_extras'}: {section.model} "
            "has one member, which cannot disagree with others. Train a committee of two or more, or remove the keys."
        )
    fade = None
    if section.action == "fade" and limits.energy is not None:
        fade = Fade(limits.energy, section.fade_width * limits.energy)
    elements = model.info.elements
    committee = CommitteeSettings(
        energy_offset=sum(float(model.offsets[elements.index(symbol)]) for symbol in system.qm_symbols),
        include_offset=section.include_offset,
        fade=fade,
        extras=section.committee_extras,
    )
    return LoadedCorrection(model.info, engine, committee, make_guard(config, limits, system) if limited else None)


def spread_limits(config: Config) -> SpreadLimits:
    """The limits of [correction], in atomic units."""
    energy = config.correction.energy_spread_limit_kj_per_mol
    force = config.correction.force_spread_limit_kj_per_mol_per_angstrom
    return SpreadLimits(
        None if energy is None else energy * KJ_PER_MOL, None if force is None else force * KJ_PER_MOL / ANGSTROM
    )


def make_guard(config: Config, limits: SpreadLimits, system: System) -> Guard:
    """The guard that [correction] describes.

    Raises:
        FrameError: The file for frames holds something else than frames of this system.
    """
    section = config.correction
    frame_file = None
    if section.frames_file is not None:
        frame_file = FrameFile(
            section.frames_file, system.symbols, periodic=system.periodic, max_frames=section.max_frames
        )
    return Guard(limits, stop=section.action == "stop", frame_file=frame_file, interval=section.frames_interval_steps)


def check_settings(config: Config, info: ModelInfo, system: System) -> None:
    """Refuse a model whose labels mean something else than what the run computes.

    Raises:
        ModelError: The embedding differs, or the baseline of a model that corrects one: also that of a QM region with
            fewer elements, which no settings can make the same.
    """
    here = label_settings(config, system)
    tables: list[tuple[str, Mapping[str, object], Mapping[str, object]]] = [
        ("embedding", info.embedding, here.embedding)
    ]
    if info.target == "delta":
        tables.append(("baseline", info.baseline, here.baseline))
    found = []
    for name, theirs, ours in tables:
        for key in dict.fromkeys([*theirs, *ours]):
            if canonical(theirs.get(key)) != canonical(ours.get(key)):
                found.append(f"{name}, {key}: {canonical(theirs.get(key))} there, and {canonical(ours.get(key))} here")
    elements = sorted(set(system.qm_symbols))
    if found and info.target == "delta" and elements != sorted(info.elements):
        raise ModelError(
            f"{config.correction.model} was trained for a QM region of {', '.join(info.elements)}, and this one has "
            f"{', '.join(elements)}: train one for this system."
        )
    if found:
        raise ModelError(
            f"{config.correction.model} was made with other settings than those of {config.file}: {'; '.join(found)}. "
            "Run with the settings it was trained for ([embedding], [dftb]), or train one for these."
        )
