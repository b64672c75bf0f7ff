"""How a committee is trained."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from deltaqmmm.errors import ConfigError
from deltaqmmm.units import ANGSTROM


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of a training run.

    The loss is, over the frames of a batch, energy_weight <(dE)^2> + qm_gradient_weight <(dg_QM)^2> +
    mm_gradient_weight <(dg_MM)^2> + mm_potential_weight <(dphi)^2>, means over frames and components, errors in kJ/mol,
    kJ/mol/angstrom and kJ/mol/e. phi are the derivatives by the charges of the MM sites, the potential of the QM region
    there: they tie the energy to the far surroundings, which energies of correlated frames alone cannot.

    Attributes:
        target: "delta" learns reference minus baseline, "direct" the reference.
        members: Members of the committee; they differ in their initial weights and in the frames held out.
        seed: From which all random numbers follow.
        validation_fraction: Part of the frames that each member does not learn from but is judged by.
        epochs: At most; the learning rate falls from its first value to a hundredth of it over this time.
        batch_size: Frames per step.
        learning_rate: Of the AdamW optimiser at the start.
        weight_decay: Of that optimiser: each step takes this part of the learning rate off the weights, not the biases.
        energy_weight: Of squared errors in kJ/mol.
        qm_gradient_weight: Of squared errors in kJ/mol/angstrom.
        mm_gradient_weight: Of squared errors in kJ/mol/angstrom.
        mm_potential_weight: Of squared errors in kJ/mol/e.
        mm_gradient_cutoff: MM sites this close to a QM atom enter the loss, bohr. Of those farther than 6 angstrom a
            sample does, so that they weigh less the farther they are, by r^-3.
        patience: Epochs without improvement of any member after which training ends.
        hidden: Widths of the hidden layers.
        smallest_variance: Linear combinations of features whose variance is below this part of the mean are left out.
        whitening: How far combinations of small variance are enlarged: 0 not at all, 0.5 to the size of the others.
        averaging: Weight of the old values in the running average of the networks' weights, per step.
    """

    target: str = "delta"
    members: int = 4
    seed: int = 1
    validation_fraction: float = 0.1
    epochs: int = 200
    batch_size: int = 8
    learning_rate: float = 1e-2
    weight_decay: float = 0.03
    energy_weight: float = 3.0
    qm_gradient_weight: float = 1.0
    mm_gradient_weight: float = 200.0
    mm_potential_weight: float = 20.0
    mm_gradient_cutoff: float = 14.0 * ANGSTROM
    patience: int = 100
    hidden: tuple[int, ...] = (64, 64)
    smallest_variance: float = 1e-3
    whitening: float = 0.15
    averaging: float = 0.98

    def __post_init__(self) -> None:
        """Refuse values that no training can use."""
        if self.target not in ("delta", "direct"):
            raise ConfigError(f"target = '{self.target}' is unknown: choose 'delta' or 'direct'.")
        for name in ("members", "epochs", "batch_size", "patience"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}: at least 1 is needed.")
        if not self.hidden or min(self.hidden) < 1:
            raise ConfigError(f"hidden = {list(self.hidden)}: widths of at least one layer are needed.")
        if not 0.0 < self.validation_fraction < 1.0:
            raise ConfigError(f"validation_fraction = {self.validation_fraction}: a number between 0 and 1 is needed.")
        weights = (self.energy_weight, self.qm_gradient_weight, self.mm_gradient_weight, self.mm_potential_weight)
        if min(weights) < 0.0 or not max(weights) > 0.0 or not all(math.isfinite(weight) for weight in weights):
            raise ConfigError(f"the weights of the loss are {weights}: not negative, and one of them positive.")
        if not self.learning_rate > 0.0:
            raise ConfigError(f"learning_rate = {self.learning_rate}: a positive number is needed.")
        if not 0.0 <= self.weight_decay * self.learning_rate < 1.0:
            raise ConfigError(
                f"weight_decay = {self.weight_decay}: a number from 0 up is needed, below one over learning_rate "
                f"({self.learning_rate:g})."
            )
        if not 0.0 < self.smallest_variance < 1.0:
            raise ConfigError(
                f"smallest_variance = {self.smallest_variance}: a number above 0 and below 1 is needed; from 1 on no "
                "combination of features need be left."
            )
        if not 0.0 <= self.whitening <= 0.5:
            raise ConfigError(f"whitening = {self.whitening}: a number from 0 to 0.5 is needed.")
        if not 0.0 <= self.averaging < 1.0:
            raise ConfigError(f"averaging = {self.averaging}: a number from 0 to below 1 is needed.")

    def to_json(self) -> dict[str, object]:
        """As plain values."""
        return {**asdict(self), "hidden": list(self.hidden)}
