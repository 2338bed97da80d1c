"""Audits of a few shapes: what their plans lay out, and which of their steps are identical to others'."""

from __future__ import annotations

from dataclasses import dataclass

from shared.states import StepKind

OLD_CODE = "o" * 64


@dataclass(frozen=True)
class Shape:
    """Edits by name, fine-tunings as (edit or None for the base, recipe), edits that need a preparation."""

    edits: tuple[str, ...]
    tunings: tuple[tuple[str | None, str], ...]
    prepared: tuple[str, ...] = ()


SHAPES = (
    Shape(("a",), (("a", "r"),)),
    Shape(("a",), (("a", "r"), ("a", "s"))),
    Shape(("a", "b"), ((None, "r"), ("a", "r"), ("b", "r"))),
    Shape(("a", "b"), (("a", "r"), ("b", "r")), prepared=("b",)),
)


@dataclass(frozen=True)
class Wish:
    """What somebody submits; who sends an unwanted one may think better of it."""

    submitter: str
    priority: int
    shape: Shape
    model: str
    queue_seconds: int | None
    run_seconds: int | None
    old_code: bool  # it is planned by a worker of an earlier version
    from_scratch: bool
    unwanted: bool
    worn: bool  # its steps have died and its artifacts been damaged as often as is borne
    asked_done: tuple[str, ...]

    @property
    def done(self) -> tuple[str, ...]:
        """The kinds of steps that are done already; of earlier code's only the plan."""
        return self.asked_done[:1] if self.old_code else self.asked_done


@dataclass(frozen=True)
class PlannedStep:
    """One step as a plan lays it out; `needs` and `reads` are places in the list of steps.

    reads: the step whose artifact it needs.
    """

    kind: StepKind
    key: str
    needs: tuple[int, ...]
    reads: int | None = None


def lay_out(wish: Wish, audit_id: str) -> list[PlannedStep]:
    """The steps after the plan. Equal models and names make equal keys, but for the report's."""
    prefix = f"{'old' if wish.old_code else 'new'} {wish.model}"
    steps = [PlannedStep(StepKind.BASE, f"{prefix} base", ())]
    places: dict[str | None, tuple[int, ...]] = {None: (0,)}
    for edit in wish.shape.edits:
        prepared = None
        if edit in wish.shape.prepared:
            prepared = len(steps)
            steps.append(PlannedStep(StepKind.PREPARE, f"{prefix} prepare {edit}", ()))
        places[edit] = (0, len(steps))
        needs = (0,) if prepared is None else (0, prepared)
        steps.append(PlannedStep(StepKind.EDIT, f"{prefix} edit {edit}", needs, prepared))
    for tuned, recipe in wish.shape.tunings:
        edited = None if tuned is None else places[tuned][1]
        steps.append(PlannedStep(StepKind.TUNE, f"{prefix} tune {tuned} {recipe}", places[tuned], edited))
    steps.append(PlannedStep(StepKind.ANALYSE, f"analyse {audit_id}", tuple(range(len(steps)))))
    return steps
