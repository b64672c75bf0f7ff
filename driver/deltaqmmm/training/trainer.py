"""The training of a committee."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from deltaqmmm.dataset import Dataset
from deltaqmmm.errors import DatasetError, NonFiniteError
from deltaqmmm.ml import (
    CommitteeModel,
    CommitteeNetwork,
    Descriptor,
    ModelInfo,
    SiteTypes,
    SymmetryFunctions,
    type_names,
)
from deltaqmmm.results import FloatArray
from deltaqmmm.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from deltaqmmm.training.inputs import features_of, untrained_network
from deltaqmmm.training.loss import squared_errors
from deltaqmmm.training.preparation import prepare
from deltaqmmm.training.report import EpochReport
from deltaqmmm.training.schedule import held_out_frames, learning_rate, pieces
from deltaqmmm.training.settings import TrainingSettings
from deltaqmmm.units import KJ_PER_MOL

FEWEST_FRAMES = 10
CHECKPOINT_SECONDS = 20.0
VALIDATION_BATCH = 64


class Trainer:
    """Trains one committee on one dataset; see `TrainingSettings`.

    Args:
        dataset: Labelled frames.
        settings: How to train.
        functions: The symmetry functions.
        checkpoint: File that holds the state of the run; None keeps none. If it is there, the run goes on from it.
        provenance: What the model file should say of its origin.
        on_frames: Called with the number of frames that were prepared in each step.

    Raises:
        DatasetError: Too few frames.
        ModelError: The checkpoint is of another run or damaged.
    """

    def __init__(
        self,
        dataset: Dataset,
        settings: TrainingSettings,
        functions: SymmetryFunctions,
        checkpoint: Path | None = None,
        provenance: Mapping[str, object] | None = None,
        on_frames: Callable[[int], None] = lambda count: None,
    ) -> None:
        if len(dataset.frames) < FEWEST_FRAMES:
            raise DatasetError(
                f"the dataset holds {len(dataset.frames)} frames, and training needs {FEWEST_FRAMES} at least."
            )
        self.dataset, self.settings, self.functions = dataset, settings, functions
        self.provenance = dict(provenance or {})
        self.history: list[EpochReport] = []
        table = dataset.system
        self.elements = tuple(sorted(set(table.qm_symbols)))
        names = type_names(functions.mm_type_by, table.site_symbols, table.site_types)
        charged = [name for name, charge in zip(names, table.site_charges, strict=True) if charge != 0.0]
        self.mm_types = tuple(sorted(set(charged))) or ("*",)
        types = SiteTypes.of(functions, self.mm_types, table.site_symbols, table.site_types, table.site_charges)
        descriptor = Descriptor(functions, self.elements, table.qm_symbols, types)
        self._atoms = descriptor.atoms
        self._frames = prepare(dataset, descriptor, settings.target, settings.mm_gradient_cutoff, on_frames)
        self._offsets, self._targets = self._remove_offsets()
        self._held_out = held_out_frames(len(dataset.frames), settings)
        self._network = self._new_network()
        self._averaged = self._copy(self._network)
        self._best = self._copy(self._network)
        self._best_losses = torch.full((settings.members,), math.inf, dtype=torch.float64)
        self._best_epochs = [0] * settings.members
        self._epoch = 0
        named = list(self._network.named_parameters())
        weights = [parameter for name, parameter in named if name.startswith("weight")]
        others = [parameter for name, parameter in named if not name.startswith("weight")]
        self._optimiser = torch.optim.AdamW(
            [{"params": weights, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=settings.learning_rate,
            betas=(0.9, 0.99),
        )
        self._checkpoint = checkpoint
        self._saved = time.monotonic()
        if checkpoint is not None and checkpoint.exists():
            self._resume(read_checkpoint(checkpoint, self._fingerprint()))

    @property
    def epochs_done(self) -> int:
        """Epochs done, those before a resumption included."""
        return self._epoch

    def held_out(self, member: int) -> list[int]:
        """Places in the dataset of the frames that a member is validated on."""
        places: list[int] = self._held_out[member].nonzero()[:, 0].tolist()
        return places

    def run(self, on_epoch: Callable[[EpochReport], None] = lambda report: None) -> CommitteeModel:
        """Train to the end.

        Args:
            on_epoch: Called after each epoch.

        Returns:
            The committee with each member at its best validation loss.

        Raises:
            NonFiniteError: The loss is not finite: the learning rate is too high.
        """
        while self._epoch < self.settings.epochs and not self._exhausted():
            report = self._one_epoch()
            self.history.append(report)
            on_epoch(report)
            if self._checkpoint is not None and time.monotonic() - self._saved > CHECKPOINT_SECONDS:
                self.save()
        if self._checkpoint is not None:
            self.save()
        return self.model()

    def model(self) -> CommitteeModel:
        """The committee as it is best so far."""
        network = self._copy(self._best).to(torch.float64)
        table = self.dataset.settings
        info = ModelInfo(
            target=self.settings.target,
            elements=self.elements,
            mm_types=self.mm_types,
            embedding=table.embedding,
            level=table.level,
            baseline=table.baseline,
            n_members=self.settings.members,
            n_parameters=network.n_parameters,
            provenance={
                **self.provenance,
                "training": self.settings.to_json(),
                "frames": len(self.dataset.frames),
                "epochs": self._epoch,
                "best_epochs": list(self._best_epochs),
            },
        )
        return CommitteeModel(info, self.functions, network, self._offsets)

    def save(self) -> None:
        """Write the checkpoint."""
        if self._checkpoint is None:
            return
        networks = {"network": self._network, "averaged": self._averaged, "best": self._best}
        tensors = {
            f"{role}/{name}": tensor
            for role, network in networks.items()
            for name, tensor in network.state_dict().items()
        }
        for index, state in self._optimiser.state_dict()["state"].items():
            tensors.update({f"optimiser/{index}/{name}": torch.as_tensor(value) for name, value in state.items()})
        tensors["best_losses"] = self._best_losses
        header = {
            "epoch": self._epoch,
            "best_epochs": self._best_epochs,
            "history": [report.to_json() for report in self.history],
        }
        write_checkpoint(self._checkpoint, Checkpoint(self._fingerprint(), header, tensors))
        self._saved = time.monotonic()

    def _resume(self, checkpoint: Checkpoint) -> None:
        for role, network in (("network", self._network), ("averaged", self._averaged), ("best", self._best)):
            prefix = f"{role}/"
            network.load_state_dict(
                {name[len(prefix) :]: tensor for name, tensor in checkpoint.tensors.items() if name.startswith(prefix)}
            )
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in checkpoint.tensors.items():
            if name.startswith("optimiser/"):
                _, index, key = name.split("/")
                state.setdefault(int(index), {})[key] = tensor
        self._optimiser.load_state_dict({**self._optimiser.state_dict(), "state": state})
        self._best_losses = checkpoint.tensors["best_losses"]
        self._best_epochs = [int(epoch) for epoch in checkpoint.header["best_epochs"]]
        self._epoch = int(checkpoint.header["epoch"])
        self.history = [EpochReport.from_json(entry) for entry in checkpoint.header["history"]]

    def _fingerprint(self) -> dict[str, object]:
        """What must be the same for a run to go on from a checkpoint."""
        return {
            "settings": self.settings.to_json(),
            "functions": self.functions.to_json(),
            # With their energies: frames that were labelled again are other frames.
            "frames": [
                (frame.identity, frame.reference.energy, frame.baseline.energy) for frame in self.dataset.frames
            ],
            "labels": {name: dict(table) for name, table in self.dataset.settings.tables().items()},
        }

    def _remove_offsets(self) -> tuple[Tensor, Tensor]:
        """Energy of one atom of each element, the least that explains the mean; and the targets without it."""
        counts = torch.tensor([len(atoms) for atoms in self._atoms], dtype=torch.float64)
        offsets = counts * (self._frames.energies.mean() / (counts**2).sum())
        return offsets, (self._frames.energies - (offsets * counts).sum()).to(torch.float32)

    def _new_network(self) -> CommitteeNetwork:
        indices = torch.arange(len(self._frames))
        features = torch.cat([features_of(self._frames.take(part)) for part in pieces(indices, VALIDATION_BATCH)])
        scale = max(float(self._targets.std()), KJ_PER_MOL)
        return untrained_network(features, self._atoms, self.elements, scale, self.settings)

    def _copy(self, network: CommitteeNetwork) -> CommitteeNetwork:
        copy = CommitteeNetwork(
            network.elements, network.n_features, network.n_inputs, network.hidden, network.n_members
        )
        copy.load_state_dict(network.state_dict())
        return copy.requires_grad_(False)

    def _exhausted(self) -> bool:
        """Whether no member has got better for long."""
        return self._epoch - max(self._best_epochs) >= self.settings.patience

    def _one_epoch(self) -> EpochReport:
        start = time.perf_counter()
        settings = self.settings
        rate = learning_rate(settings, self._epoch)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        # The order depends on seed and epoch alone, so that a resumed run is the unbroken one.
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + self._epoch)
        order = torch.randperm(len(self._frames), generator=generator)
        sums = torch.zeros(settings.members, 3, dtype=torch.float64)
        for part in pieces(order, settings.batch_size):
            sums += self._step(part)
        self._epoch += 1
        learnt = (~self._held_out).sum(dim=1, keepdim=True).double()
        validation, losses = self._validate()
        self._keep_best(losses)
        return EpochReport(
            epoch=self._epoch,
            epochs=settings.epochs,
            learning_rate=rate,
            training=(sums / learnt).sqrt().numpy(),
            validation=validation,
            best_epochs=tuple(self._best_epochs),
            seconds=time.perf_counter() - start,
        )

    def _step(self, part: Tensor) -> Tensor:
        """One step of the optimiser; the sums of squared errors over the frames that each member learns from."""
        settings = self.settings
        errors = squared_errors(
            self._network, self._frames.take(part), self._atoms, self._targets[part], differentiable=True
        )
        learns = (~self._held_out[:, part]).to(errors.energy.dtype)
        loss = (
            _weighted((errors.energy, errors.qm_gradient, errors.mm_gradient, errors.mm_potential), settings) * learns
        )
        total = loss.sum() / settings.batch_size
        if not torch.isfinite(total):
            raise NonFiniteError(
                f"the loss of epoch {self._epoch + 1} is not finite: lower learning_rate ({settings.learning_rate:g}) "
                "or look for outliers in the dataset."
            )
        self._optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        steps = self._epoch * math.ceil(len(self._frames) / settings.batch_size)
        # A young average follows closely, so that it forgets the first weights.
        keep = min(settings.averaging, (1 + steps) / (10 + steps))
        with torch.no_grad():
            for average, current in zip(self._averaged.parameters(), self._network.parameters(), strict=True):
                average.lerp_(current, 1.0 - keep)
        return (errors.stacked() * learns[..., None]).sum(dim=1)[:, :3]

    def _validate(self) -> tuple[FloatArray, Tensor]:
        """Root-mean-square errors of the averaged networks over each member's own frames, and their losses."""
        indices = self._held_out.any(dim=0).nonzero()[:, 0]
        sums = torch.zeros(self.settings.members, 4, dtype=torch.float64)
        for part in pieces(indices, VALIDATION_BATCH):
            errors = squared_errors(
                self._averaged, self._frames.take(part), self._atoms, self._targets[part], differentiable=False
            )
            sums += (errors.stacked() * self._held_out[:, part, None]).sum(dim=1)
        means = sums / self._held_out.sum(dim=1, keepdim=True)
        return means[:, :3].sqrt().numpy(), _weighted(means.unbind(dim=1), self.settings)

    def _keep_best(self, losses: Tensor) -> None:
        for member in (losses < self._best_losses).nonzero()[:, 0].tolist():
            self._best_losses[member] = losses[member]
            self._best_epochs[member] = self._epoch
            for best, average in zip(self._best.parameters(), self._averaged.parameters(), strict=True):
                best[member] = average[member]


def _weighted(errors: Sequence[Tensor], settings: TrainingSettings) -> Tensor:
    energy, qm_gradient, mm_gradient, mm_potential = errors
    return (
        settings.energy_weight * energy
        + settings.qm_gradient_weight * qm_gradient
        + settings.mm_gradient_weight * mm_gradient
        + settings.mm_potential_weight * mm_potential
    )
