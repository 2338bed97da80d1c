"""Where the checkpoints of fine-tunings are kept: in the artifact store, named by the step's row."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select
from sqlmodel import col

from services.worker.steps.context import AuditContext, update_held
from shared.artifacts import Artifact, ArtifactCorrupt, ArtifactStoreUnavailable
from shared.states import StepKind
from shared.tables import Step

log = logging.getLogger(__name__)

SUFFIX = ".safetensors"
LEAST_WORK_PER_SAVING = 20  # saving takes at most a twentieth of the time


@dataclass
class CheckpointKeeper:
    """Stores, finds and forgets the checkpoints of the step at hand."""

    context: AuditContext
    step: Step
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._kept = _named(self.step)
        self._next_at = self.clock() + self.context.settings.checkpoint_seconds

    def due(self) -> bool:
        """Whether it is time to save."""
        return self.clock() >= self._next_at

    def find(self, directory: Path) -> Path | None:
        """The furthest checkpoint of this step, or of an identical one that was given up, as a file.

        None where there is none that is whole. An audit from scratch has only its own.

        Raises:
            ArtifactStoreUnavailable: nobody can tell; hours of work may be there to go on from.
        """
        for owner in self._candidates():
            artifact = _named(owner)
            assert artifact is not None  # noqa: S101 (only such steps are candidates)
            path = directory / f"checkpoint{SUFFIX}"
            try:
                self.context.store.get_file(artifact, path)
            except ArtifactCorrupt as error:
                self.context.say(self.step, "step.checkpoint_ignored", error=str(error))
                continue
            self.context.say(self.step, "step.resumed", share=owner.checkpoint_progress)
            return path
        return None

    def store(self, path: Path, share: float) -> None:
        """Keep a checkpoint in place of the last one; a store that is away costs only this saving."""
        began = self.clock()
        try:
            artifact = self.context.store.put_file(path, SUFFIX)
        except ArtifactStoreUnavailable as error:
            log.warning("a checkpoint could not be stored: %s", error)
        else:
            update_held(
                self.context,
                self.step,
                checkpoint=artifact.name,
                checkpoint_sha256=artifact.sha256,
                checkpoint_progress=share,
            )
            self._forget_all_but(artifact)
        pause = max(self.context.settings.checkpoint_seconds, LEAST_WORK_PER_SAVING * (self.clock() - began))
        self._next_at = self.clock() + pause

    def _candidates(self) -> list[Step]:
        query = select(Step).where(
            col(Step.key) == self.step.key,
            col(Step.checkpoint).is_not(None),
            col(Step.checkpoint_progress).is_not(None),  # else other code saved it
        )
        if self.context.audit.from_scratch:
            query = query.where(col(Step.id) == self.step.id)
        query = query.order_by(col(Step.checkpoint_progress).desc())
        return self.context.read(lambda session: list(session.execute(query).scalars()))

    def _forget_all_but(self, artifact: Artifact) -> None:
        if self._kept is not None and self._kept != artifact:
            forget(self.context, self._kept)
        self._kept = artifact


def stored_checkpoint(context: AuditContext, step: Step) -> Artifact | None:
    """The checkpoint that the step has at this moment."""
    return _named(context.step(step.id)) if step.kind is StepKind.TUNE else None


def forget(context: AuditContext, artifact: Artifact) -> None:
    """Delete a checkpoint that no step names any more."""
    named: int = context.read(
        lambda session: session.execute(
            select(func.count()).select_from(Step).where(col(Step.checkpoint) == artifact.name)
        ).scalar_one()
    )
    if named:
        return
    try:
        context.store.delete(artifact)
    except ArtifactStoreUnavailable as error:
        log.warning("a checkpoint stays in the store: %s", error)


def _named(step: Step) -> Artifact | None:
    if step.checkpoint is None or step.checkpoint_sha256 is None:
        return None
    return Artifact(step.checkpoint, step.checkpoint_sha256)
