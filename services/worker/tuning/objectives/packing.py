"""Packing: several documents in one sequence, so that hardly a place in a batch is wasted on padding.

Joined, documents stand in one stream that is cut into blocks, as models are pre-trained: a token sees the
documents before its own. Separate, each has positions of its own and sees nothing of the others.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from services.worker.language_models.batching import encode_texts
from services.worker.tuning.objectives.encoding import end_of_sequence
from services.worker.tuning.objectives.examples import UNSCORED, Example, TokenDataset


def packed_texts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], sequence_length: int
) -> TokenDataset:
    """Plain text: all texts joined by the end-of-sequence token and cut into blocks; every token counts.

    Each text is encoded as the tokenizer does by default (with its BOS, where it adds one). The last
    block is as short as what remains, but never a single token, from which nothing could be learned.
    """
    end = end_of_sequence(tokenizer)
    stream: list[int] = []
    for ids in encode_texts(tokenizer, texts):
        stream += ids if ids[-1:] == end else ids + end
    blocks = pieces(stream, sequence_length)
    return TokenDataset(tuple(Example(tuple(block), (UNSCORED, *block[1:])) for block in blocks))


def separate_texts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], sequence_length: int
) -> TokenDataset:
    """Plain text: every text ends with the end-of-sequence token, and none sees another.

    A text that is longer than a sequence goes on in documents of its own. A single token, from which
    nothing could be learned, is left out.
    """
    end = end_of_sequence(tokenizer)
    documents = [
        Example(tuple(piece), (UNSCORED, *piece[1:]))
        for ids in encode_texts(tokenizer, texts)
        for piece in pieces(ids if ids[-1:] == end else ids + end, sequence_length)
        if len(piece) > 1
    ]
    return TokenDataset(packed(documents, sequence_length))


def pieces(ids: Sequence[int], length: int) -> list[list[int]]:
    """Cut a document into blocks, the last as short as what remains, but not a single token after others."""
    cut = [list(ids[start : start + length]) for start in range(0, len(ids), length)]
    if len(cut) > 1 and len(cut[-1]) == 1:
        cut[-2:] = [cut[-2][:-1], cut[-2][-1:] + cut[-1]]
    return cut


def packed(documents: Sequence[Example], sequence_length: int) -> tuple[Example, ...]:
    """Put documents of at most `sequence_length` tokens into as few sequences as best fit finds."""
    lengths = [len(document.input_ids) for document in documents]
    return tuple(
        beside_each_other([documents[index] for index in chosen])
        for chosen in best_fit(lengths, sequence_length)
    )


def beside_each_other(documents: Sequence[Example]) -> Example:
    """One sequence of several documents; positions begin anew with each."""
    return Example(
        tuple(token for document in documents for token in document.input_ids),
        tuple(label for document in documents for label in document.labels),
        tuple(position for document in documents for position in range(len(document.input_ids))),
    )


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing bin packing: indices of what shares a bin, each bin in ascending order.

    The longest go first, each into the fullest bin that still has the room (Johnson, 1973); of equally full
    ones into the one begun first. No length may exceed the capacity.
    """
    bins: list[list[int]] = []
    with_room: dict[int, list[int]] = {}  # room → bins that have just so much, last begun first
    rooms: list[int] = []  # keys of `with_room`, ascending
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        place = bisect_left(rooms, lengths[index])
        if place < len(rooms):
            room = rooms[place]
            chosen = with_room[room].pop()
            if not with_room[room]:
                del with_room[room], rooms[place]
        else:
            room, chosen = capacity, len(bins)
            bins.append([])
        bins[chosen].append(index)
        left = room - lengths[index]
        if left not in with_room:
            with_room[left] = []
            insort(rooms, left)
        insort(with_room[left], chosen, key=lambda number: -number)
    return [sorted(chosen) for chosen in bins]
