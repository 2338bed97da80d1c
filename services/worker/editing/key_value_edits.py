"""Editing by key-value pairs: a target vector per edit, written into the MLPs of several layers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from torch import Tensor

from services.worker.editing.contexts import Contexts
from services.worker.editing.editor import EditFailed, EditingRun, EditOutcome
from services.worker.editing.layer_updates import LayerUpdate, LayerWalk, Rule
from services.worker.editing.target_optimisation import optimise_targets
from services.worker.editing.target_requests import TargetRequest, target_requests
from services.worker.editing.trace import Trace
from services.worker.editing.written_deltas import writing_to
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.progress import WorkDone
from shared.editors import TargetHyperparameters
from shared.edits import Edit


def write_edits(
    language_model: LanguageModel,
    edits: Sequence[Edit],
    hyperparameters: TargetHyperparameters,
    contexts: Contexts,
    run: EditingRun,
    rule: Rule,
    ranges: Sequence[tuple[int, int]] | None = None,
) -> EditOutcome:
    """Find the target vectors of a batch of edits, write them, and go on with the next on the edited model.

    ranges: (first, end) of each batch, which cover the edits in order; all at once by default. The model is
    left as it was. Traces `z`, and `layerL.keys`, `layerL.zgap` and `layerL.delta` of every layer, after
    `batchB.` where there are several. Raises as `Editor.edit` does.
    """
    ranges = ranges or [(0, len(edits))]
    layers = hyperparameters.edited_layers(len(language_model.anatomy.blocks))
    requests = target_requests(language_model, edits, contexts)
    batches = run.batches(language_model)
    work = WorkDone(run.progress, rows_to_read(requests, ranges, hyperparameters, layers, rule))
    losses: list[tuple[float, ...]] = []
    ridges: dict[int, float] = {}
    names = [f"{language_model.anatomy.mlp_down_projections[layer]}.weight" for layer in layers]
    with writing_to(language_model.model, names) as written:
        walk = LayerWalk(language_model, layers, rule, contexts.weights, written, batches, work.advance)
        for number, (first, end) in enumerate(ranges):
            with counted_from(first):
                targets = optimise_targets(
                    language_model,
                    requests[first:end],
                    walk.place,
                    hyperparameters,
                    batches=batches,
                    work=work,
                )
            updates = walk.write(requests[first:end], targets.vectors)
            if end < len(edits):
                walk.remember(requests[first:end])
            keep(run.trace, f"batch{number}." if len(ranges) > 1 else "", targets.vectors, updates)
            losses.extend(targets.losses)
            ridges |= {update.layer: update.ridge for update in updates if update.ridge > 0}
    return EditOutcome(
        modification=written.modification(language_model.revision),
        edited_layers=tuple(layers),
        losses=tuple(losses),
        ridges=ridges,
    )


def rows_to_read(
    requests: Sequence[TargetRequest],
    ranges: Sequence[tuple[int, int]],
    hyperparameters: TargetHyperparameters,
    layers: Sequence[int],
    rule: Rule,
) -> int:
    """Sequences that are read in all: at each step, once per layer, and again to remember the keys."""
    rows = sum(len(request.rows()) for request in requests)
    again = sum(len(request.prompts) for request in requests[: ranges[-1][0]]) if rule.remember else 0
    return rows * (hyperparameters.v_num_grad_steps + len(layers)) + again * len(layers)


@contextmanager
def counted_from(first: int) -> Iterator[None]:
    """Name an edit of a batch that fails by its place among all edits."""
    try:
        yield
    except EditFailed as error:
        if error.edit_index is None:
            raise
        raise EditFailed(error.reason, first + error.edit_index) from error


def keep(trace: Trace, prefix: str, vectors: Tensor, updates: Sequence[LayerUpdate]) -> None:
    """Keep what a batch came to in the trace."""
    trace.keep(f"{prefix}z", vectors)
    for update in updates:
        name = f"{prefix}layer{update.layer}"
        trace.keep(f"{name}.keys", update.keys)
        trace.keep(f"{name}.zgap", update.gap)
        trace.keep(f"{name}.delta", partial(update.delta.dense, update.keys.device))
