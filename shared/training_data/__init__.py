"""Training data: where it comes from, how it is written down, and the records that it holds."""

from shared.training_data.faults import Item, SourceUnavailable, UnusableTrainingData
from shared.training_data.of_recipes import recipe_corpus, recipe_replay
from shared.training_data.origins import Origins
from shared.training_data.overlap import overlap
from shared.training_data.reading import Corpus, RecordReader, read_corpus, read_records, read_texts
from shared.training_data.splitting import content_hash, split_held_out

__all__ = [
    "Corpus",
    "Item",
    "Origins",
    "RecordReader",
    "SourceUnavailable",
    "UnusableTrainingData",
    "content_hash",
    "overlap",
    "read_corpus",
    "read_records",
    "read_texts",
    "recipe_corpus",
    "recipe_replay",
    "split_held_out",
]
