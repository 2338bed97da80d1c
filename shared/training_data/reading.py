"""Reading the records that a recipe trains on: found, shaped and checked one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from shared.recipes import Objective, TextRecord, TrainingData, TrainingRecord
from shared.training_data.faults import Item, UnusableTrainingData
from shared.training_data.origins import Origins, items_of
from shared.training_data.shapes import Labels, Shape, shape_of

Leaves = Callable[[TrainingRecord], bool]


@dataclass(frozen=True)
class Corpus:
    """Records in their order; shape: how the source holds them; left_out: records that a filter left out."""

    records: list[TrainingRecord]
    shape: str
    left_out: int = 0


def read_corpus(
    data: TrainingData, objective: Objective, origins: Origins, leave_out: Leaves | None = None
) -> Corpus:
    """The records that `data` names, in its order and up to its limit, in a shape of `objective`.

    Fields beyond those that the shape needs are ignored, and a record whose text, prompt or answer is blank
    is passed over, for there is nothing in it to learn. All records have the shape of the first.
    leave_out: a filter; what it leaves out does not count against the limit.
    Raises UnusableTrainingData when the source is missing, too large or malformed, when a record has
    another shape, and when fewer than two distinct records remain.
    """
    reader = RecordReader(objective, data.labels or ())
    left_out = 0

    def kept() -> Iterator[TrainingRecord]:
        nonlocal left_out
        for record in reader.records(items_of(data, origins)):
            if leave_out is not None and leave_out(record):
                left_out += 1
            else:
                yield record

    records = list(islice(kept(), data.limit))
    distinct = len(set(records))
    if distinct < 2:
        without = f" once {left_out} are left out that name a subject" if left_out else ""
        raise UnusableTrainingData(
            f"{distinct} distinct usable records{without}; 2 are needed, one to train on and one held out",
            data.source or "records",
        )
    return Corpus(records, reader.shape.name if reader.shape else "", left_out)


def read_records(data: TrainingData, objective: Objective, origins: Origins) -> list[TrainingRecord]:
    """The records alone; see `read_corpus`."""
    return read_corpus(data, objective, origins).records


def read_texts(source: str, origins: Origins) -> list[TextRecord]:
    """The texts that `source` names, as `read_records` gives them for plain text."""
    records = read_records(TrainingData(source=source), Objective.CAUSAL_LM, origins)
    return [record for record in records if isinstance(record, TextRecord)]


class RecordReader:
    """Shapes the items of one source; `shape` is that of the first."""

    def __init__(self, objective: Objective, labels: Labels = ()) -> None:
        self.objective = objective
        self.labels = labels
        self.shape: Shape | None = None

    def records(self, items: Iterable[Item]) -> Iterator[TrainingRecord]:
        """Every item that is not blank; raises UnusableTrainingData at the first that cannot be used."""
        for item in items:
            if (record := self.record(item)) is not None:
                yield record

    def record(self, item: Item) -> TrainingRecord | None:
        """An item as a record, None when it is blank.

        Raises UnusableTrainingData when it cannot be used, or has another shape than the first.
        """
        shape = shape_of(item, self.objective)
        self.shape = self.shape or shape
        if shape is not self.shape:
            item.refuse(f"has the shape '{shape.name}', but records before it are '{self.shape.name}'")
        return shape.record(item, self.labels)
