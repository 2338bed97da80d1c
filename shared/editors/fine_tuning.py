"""What the editors that descend the edits' loss have in common."""

from __future__ import annotations

from shared.editors.hyperparameters import Hyperparameters, setting

FT_VALUES = "values of Meng et al. 2022, ROME (arXiv 2202.05262)"


class FineTuningHyperparameters(Hyperparameters):
    """How long and how fast to descend."""

    num_steps: int = setting(25, "Passes over the edits.", FT_VALUES, ge=1, le=1_000)
    lr: float = setting(5e-4, "Learning rate of Adam.", FT_VALUES, gt=0, le=1)
    weight_decay: float = setting(0.0, "L2 penalty inside Adam.", FT_VALUES, ge=0, le=1)
    batch_size: int = setting(64, "Edits per update.", FT_VALUES, ge=1, le=10_000)
    loss_threshold: float = setting(
        0.01, "A batch whose loss, in nats per token, is below this makes no update.", FT_VALUES, ge=0, le=10
    )
