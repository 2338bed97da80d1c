"""MEMIT: mass-editing memory in a transformer (Meng et al. 2023, arXiv 2210.07229)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from services.worker.editing.editor import EditingRun, EditOutcome, Materials
from services.worker.editing.key_statistics import solve_positive, solve_second_moment
from services.worker.editing.key_value_edits import write_edits
from services.worker.editing.layer_updates import Rule
from services.worker.language_models.loading import LanguageModel
from shared.editors import MemitHyperparameters
from shared.edits import Edit


class Memit:
    """The editor `memit`."""

    def edit(
        self,
        language_model: LanguageModel,
        edits: Sequence[Edit],
        hyperparameters: MemitHyperparameters,
        materials: Materials,
        run: EditingRun,
    ) -> EditOutcome:
        """See `Editor.edit`."""

        def readout(layer: int, keys: Tensor) -> tuple[Tensor, float]:
            second_moment = materials.statistics.second_moment(layer, keys.device)
            return key_readout(keys, second_moment, hyperparameters.mom2_update_weight)

        return write_edits(language_model, edits, hyperparameters, materials.contexts, run, Rule(readout))


def key_readout(keys: Tensor, second_moment: Tensor, preservation: float) -> tuple[Tensor, float]:
    """Kᵀ (λC + K Kᵀ)⁻¹, which answers each key with its edit and preserved keys with nothing (MEMIT, eq. 14).

    keys: (edits, d_ff) float32; second_moment: C, (d_ff, d_ff) float64; preservation: λ.
    Returns (edits, d_ff) float64 and the ridge of `solve_second_moment`. With fewer edits than d_ff it is
    found as (I + Kᵀ (λC)⁻¹ K)⁻¹ Kᵀ (λC)⁻¹ (Woodbury), so that all but one solve have the size of the edits;
    there λ divides the solution rather than multiply C, which is as large as many a model's largest weight,
    and the ridge is that of C.
    """
    columns = keys.double().T  # K, (d_ff, edits)
    if columns.shape[1] >= columns.shape[0]:
        moment = torch.addmm(second_moment, columns, columns.T, beta=preservation)
        solved, ridge = solve_second_moment(moment, columns)
        return solved.T, ridge
    whitened, ridge = solve_second_moment(second_moment, columns)
    whitened /= preservation  # (λC)⁻¹ K
    inner = columns.T @ whitened
    inner.diagonal().add_(1.0)
    readout, _ = solve_positive(inner, whitened.T)
    return readout, ridge
