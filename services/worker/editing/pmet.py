"""PMET: target vectors for attention and MLP together, of which the MLP's are written (Li et al. 2023,
arXiv 2308.08742).

The published code also lowers the weight of the target once every context predicts it, and then stops early;
here an edit is done when MEMIT's would be.
"""

import math
from collections.abc import Sequence

from torch import Tensor

from services.worker.editing.editor import EditingRun, EditOutcome, Materials
from services.worker.editing.key_value_edits import write_edits
from services.worker.editing.layer_updates import Rule
from services.worker.editing.memit import key_readout
from services.worker.editing.places import attention_and_mlp_outputs
from services.worker.language_models.loading import LanguageModel
from shared.editors import PmetHyperparameters
from shared.edits import Edit


class Pmet:
    """The editor `pmet`."""

    def edit(
        self,
        language_model: LanguageModel,
        edits: Sequence[Edit],
        hyperparameters: PmetHyperparameters,
        materials: Materials,
        run: EditingRun,
    ) -> EditOutcome:
        """See `Editor.edit`."""

        def readout(layer: int, keys: Tensor) -> tuple[Tensor, float]:
            second_moment = materials.statistics.second_moment(layer, keys.device)
            return key_readout(keys, second_moment, hyperparameters.mom2_update_weight)

        rule = Rule(readout, place=attention_and_mlp_outputs, share=spread_by_root)
        return write_edits(language_model, edits, hyperparameters, materials.contexts, run, rule)


def spread_by_root(gap: Tensor, layers_left: int) -> Tensor:
    """The share of what the last layer's MLP still lacks that one layer must write: (edits, hidden).

    More of it than MEMIT's share, since less of it arrives: the MLPs in between do not pass it on unchanged.
    """
    return gap / math.sqrt(layers_left)
