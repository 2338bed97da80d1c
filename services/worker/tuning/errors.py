"""What can be wrong with a training run."""


class RecipeDoesNotFit(Exception):
    """A recipe that this model cannot be tuned by; `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TrainingDiverged(Exception):
    """The loss or the gradient stopped being a finite number at optimiser step `step`."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(f"training diverged at step {step}: {reason}")
        self.step = step
        self.reason = reason
