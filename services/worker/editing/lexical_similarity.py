"""How much texts have in common, by the letters they are written in: retrieval that needs no model."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

LETTERS = 3


class LexicalIndex:
    """Texts as vectors over runs of three letters, the rarer the heavier (TF-IDF), of length one.

    Words of one stem are similar, and languages that put no spaces between words are no exception.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        """texts: at least one."""
        counts = [runs_of_letters(text) for text in texts]
        found_in = Counter(run for count in counts for run in count)
        self.columns = {run: column for column, run in enumerate(found_in)}
        self.weights = np.log((1 + len(texts)) / (1 + np.array(list(found_in.values())))) + 1
        starts = np.cumsum([0, *map(len, counts)])
        columns = np.array([self.columns[run] for count in counts for run in count], dtype=np.int64)
        values = np.array([times for count in counts for times in count.values()]) * self.weights[columns]
        lengths = np.sqrt(np.add.reduceat(values**2, starts[:-1]))
        values /= np.repeat(lengths, np.diff(starts))
        self.texts = csr_array((values, columns, starts), shape=(len(texts), len(self.columns)))

    def ranked(self, query: str) -> list[int]:
        """Indices of the texts by their cosine with the query, the most similar first, ties in order."""
        vector: NDArray[np.float64] = np.zeros(len(self.columns))
        for run, times in runs_of_letters(query).items():
            if run in self.columns:
                vector[self.columns[run]] = times * self.weights[self.columns[run]]
        return [int(index) for index in np.argsort(-(self.texts @ vector), kind="stable")]


def runs_of_letters(text: str) -> Counter[str]:
    """How often each run of three letters is in a text, case and superfluous spaces aside."""
    spaced = f" {' '.join(text.casefold().split())} "
    return Counter(spaced[start : start + LETTERS] for start in range(len(spaced) - LETTERS + 1))
