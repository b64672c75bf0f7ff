"""From a checked `Config` to the settings of a training run: the units of the file end here."""

from __future__ import annotations

from deltaqmmm.config.sections import Config
from deltaqmmm.ml import SymmetryFunctions, default_functions
from deltaqmmm.training import TrainingSettings
from deltaqmmm.units import ANGSTROM


def training_settings(config: Config, members: int | None = None) -> TrainingSettings:
    """The [training] section.

    Args:
        config: The configuration.
        members: Members of the committee; None takes the section's.
    """
    training = config.training
    return TrainingSettings(
        target=training.target,
        members=training.members if members is None else members,
        seed=training.seed,
        validation_fraction=training.validation_fraction,
        epochs=training.epochs,
        batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        energy_weight=training.energy_weight,
        qm_gradient_weight=training.qm_gradient_weight,
        mm_gradient_weight=training.mm_gradient_weight,
        mm_potential_weight=training.mm_potential_weight,
        mm_gradient_cutoff=training.mm_gradient_cutoff_angstrom * ANGSTROM,
        patience=training.patience,
        hidden=training.hidden,
        smallest_variance=training.smallest_variance,
        whitening=training.whitening,
        averaging=training.averaging,
    )


def symmetry_functions(config: Config) -> SymmetryFunctions:
    """The [network] section."""
    network = config.network
    return default_functions(
        qm_cutoff=network.qm_cutoff_angstrom * ANGSTROM,
        angular_cutoff=network.angular_cutoff_angstrom * ANGSTROM,
        mm_cutoff=network.mm_cutoff_angstrom * ANGSTROM,
        qm_radial=network.qm_radial_functions,
        angular_radial=network.angular_radial_functions,
        angular_order=network.angular_order,
        mm_radial=network.mm_radial_functions,
        mm_waves=network.mm_wave_functions,
        mm_near_cutoff=network.mm_near_cutoff_angstrom * ANGSTROM,
        mm_near_radial=network.mm_near_radial_functions,
        mm_type_by=network.mm_type_by,
        mm_weight=network.mm_weight,
    )


def baseline_name(config: Config) -> str:
    """What tables and figures call the baseline: DFTB3-D3."""
    if config.dftb.hsd is not None:
        return f"DFTB+ ({config.dftb.hsd.name})"
    return config.dftb.model.upper() + ("-D3" if config.dftb.dispersion == "d3bj" else "")
