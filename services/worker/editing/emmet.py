"""EMMET: MEMIT with the edits as a constraint instead of a goal (Gupta et al. 2024, arXiv 2403.14236)."""

from collections.abc import Sequence

from torch import Tensor

from services.worker.editing.editor import EditingRun, EditOutcome, Materials
from services.worker.editing.key_statistics import solve_positive, solve_second_moment
from services.worker.editing.key_value_edits import write_edits
from services.worker.editing.layer_updates import Rule
from services.worker.editing.memit import key_readout
from services.worker.language_models.loading import LanguageModel
from shared.editors import EmmetHyperparameters
from shared.edits import Edit


class Emmet:
    """The editor `emmet`."""

    def edit(
        self,
        language_model: LanguageModel,
        edits: Sequence[Edit],
        hyperparameters: EmmetHyperparameters,
        materials: Materials,
        run: EditingRun,
    ) -> EditOutcome:
        """See `Editor.edit`."""

        def readout(layer: int, keys: Tensor) -> tuple[Tensor, float]:
            second_moment = materials.statistics.second_moment(layer, keys.device)
            if len(keys) == 1 or hyperparameters.constraint_slack == 0:
                return constrained_readout(keys, second_moment)
            # (αI + Kᵀ (λC)⁻¹ K)⁻¹ Kᵀ (λC)⁻¹, as the constraint is relaxed in batches, is MEMIT's with αλ.
            preservation = hyperparameters.constraint_slack * hyperparameters.mom2_update_weight
            return key_readout(keys, second_moment, preservation)

        return write_edits(language_model, edits, hyperparameters, materials.contexts, run, Rule(readout))


def constrained_readout(keys: Tensor, second_moment: Tensor) -> tuple[Tensor, float]:
    """(Kᵀ C⁻¹ K)⁻¹ Kᵀ C⁻¹, EMMET's closed form: each key is answered with exactly its edit, others least.

    keys: (edits, d_ff) float32; second_moment: C, (d_ff, d_ff) float64. Returns (edits, d_ff) float64 and the
    ridge of `solve_second_moment`. Keys that cannot all be answered so, for they are alike or more than d_ff,
    are answered as near to it as can be.
    """
    columns = keys.double().T  # K, (d_ff, edits)
    whitened, ridge = solve_second_moment(second_moment, columns)  # C⁻¹ K
    readout, _ = solve_positive(columns.T @ whitened, whitened.T)
    return readout, ridge
