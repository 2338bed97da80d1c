"""AlphaEdit: edits written into the null space of what a model knows (Fang et al. 2024, arXiv 2410.02355)."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from services.worker.editing.editor import EditFailed, EditingRun, EditOutcome, Materials
from services.worker.editing.key_statistics import KeyStatistics
from services.worker.editing.key_value_edits import write_edits
from services.worker.editing.layer_updates import Rule, ridge_readout
from services.worker.language_models.loading import LanguageModel
from shared.editors import AlphaEditHyperparameters
from shared.edits import Edit


class AlphaEdit:
    """The editor `alphaedit`."""

    def edit(
        self,
        language_model: LanguageModel,
        edits: Sequence[Edit],
        hyperparameters: AlphaEditHyperparameters,
        materials: Materials,
        run: EditingRun,
    ) -> EditOutcome:
        """See `Editor.edit`; raises EditFailed too where there is no null space to write into."""
        ranges = hyperparameters.ranges(len(edits))
        layers = hyperparameters.edited_layers(len(language_model.anatomy.blocks))
        spaces = {
            layer: NullSpace(layer, materials.statistics, hyperparameters, language_model.device)
            for layer in layers
        }
        outcome = write_edits(
            language_model,
            edits,
            hyperparameters,
            materials.contexts,
            run,
            Rule(
                lambda layer, keys: (spaces[layer].readout(keys), 0.0),
                remember=lambda layer, keys: spaces[layer].remember(keys),
            ),
            ranges,
        )
        for layer, space in spaces.items():
            run.trace.keep(f"layer{layer}.P", space.projector)
        return replace(outcome, free_directions={layer: space.rank for layer, space in spaces.items()})


class NullSpace:
    """The directions of one layer's keys that may be written to, and the keys written there so far.

    rank: how many directions there are. Raises EditFailed where there is none.
    """

    def __init__(
        self,
        layer: int,
        statistics: KeyStatistics,
        hyperparameters: AlphaEditHyperparameters,
        device: torch.device,
    ) -> None:
        # C is symmetric and has no negative eigenvalues: they are its singular values.
        values, vectors = torch.linalg.eigh(statistics.second_moment(layer, device))
        self.rank = int((values < hyperparameters.null_space_threshold).sum())
        if self.rank == 0:
            raise EditFailed(
                f"the keys of layer {layer} have no null space: no singular value of their second moment is "
                f"below null_space_threshold, {hyperparameters.null_space_threshold:g}; the smallest is "
                f"{float(values[0]):.3g}, half of them are below {float(values.median()):.3g}"
            )
        # U, (d_ff, rank) float64; on the CPU between uses, for the layers' together would fill small GPUs.
        self.basis: Tensor = vectors[:, : self.rank].cpu()
        self.earlier: Tensor = self.basis.new_zeros(0, self.rank)
        self.ridge = hyperparameters.L2

    def projector(self) -> Tensor:
        """P = U Uᵀ, (d_ff, d_ff) float64."""
        return self.basis @ self.basis.T

    def readout(self, keys: Tensor) -> Tensor:
        """Kᵀ P [(K Kᵀ + S) P + L2·I]⁻¹, which answers each key with its edit (eq. 14): (edits, d_ff) float64.

        keys: (edits, d_ff) float32; keys that are to be answered as they are now make up S.
        """
        basis = self.basis.to(keys.device)
        return ridge_readout(keys.double() @ basis, self.earlier.to(keys.device), self.ridge) @ basis.T

    def remember(self, keys: Tensor) -> None:
        """Have `keys`, (edits, d_ff), answered as they are now by later updates: S gains K Kᵀ.

        S is kept as rows whose sum of k kᵀ it is: the keys themselves, or as many as there are directions.
        """
        rows = torch.cat([self.earlier, keys.double().cpu() @ self.basis])
        self.earlier = rows if len(rows) <= self.rank else torch.linalg.qr(rows, mode="r").R
