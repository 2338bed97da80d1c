"""FT-L: fine-tuning within an L∞ ball (Zhu et al. 2020, arXiv 2012.00363)."""

from torch import Tensor

from services.worker.editing.down_projection_tuning import DownProjectionTuning
from services.worker.editing.fine_tuning import Constraint
from shared.editors import ConstrainedFineTuningHyperparameters


class ConstrainedFineTuning(DownProjectionTuning[ConstrainedFineTuningHyperparameters]):
    """The editor `ft_l`: no entry moves further than `norm_constraint`."""

    def constraint(self, hyperparameters: ConstrainedFineTuningHyperparameters) -> Constraint:
        """Clamp every entry to within the bound of the original."""
        bound = hyperparameters.norm_constraint

        def clamp(values: Tensor, original: Tensor) -> None:
            values.clamp_(min=original - bound, max=original + bound)

        return clamp
