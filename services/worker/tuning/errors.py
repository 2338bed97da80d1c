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


class CheckpointUnusable(Exception):
    """A checkpoint that is damaged, foreign or of another run; `reason` says which. Nothing was changed."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class HandedOver(Exception):
    """The run was left after optimiser step `step`, for another attempt to go on from its checkpoint."""

    def __init__(self, step: int) -> None:
        super().__init__(f"handed over after step {step}")
        self.step = step


class TooFewGpus(Exception):
    """There is not a GPU for every process that is to train."""

    def __init__(self, processes: int, gpus: int) -> None:
        super().__init__(
            f"HOLDFAST_TUNING_PROCESSES is {processes}, and so many GPUs are needed; the worker sees {gpus}"
        )


class RankFailed(Exception):
    """One of the processes that train together has failed, and the others have been ended."""


class MicroBatchTooLarge(Exception):
    """One forward and backward pass over `micro_batch` sequences needs more memory than the GPU has."""

    def __init__(self, micro_batch: int) -> None:
        super().__init__(f"the GPU's memory does not hold a training pass over {micro_batch} sequences")
        self.micro_batch = micro_batch
