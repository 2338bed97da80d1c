"""Reading what sequences begin with once, and what follows on its keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from services.worker.language_models.batching import pad
from services.worker.language_models.continuation import Continuation, run_and_cut
from services.worker.language_models.loading import LanguageModel
from services.worker.probing.forks import Group, Row, Tokens


@dataclass(frozen=True)
class GroupReader:
    """Reads the rows of a group, of which something is shared.

    beginnings: what whole groups begin with, in one row each, as far as it has been read.
    """

    language_model: LanguageModel
    group: Group
    beginnings: dict[Tokens, Continuation]

    @property
    def beginning(self) -> Continuation:
        """What all rows begin with, read when it is first needed."""
        tokens = self.group.beginning
        if tokens not in self.beginnings:
            self.beginnings[tokens] = self._read(self._before([tokens]))
        return self.beginnings[tokens]

    def ends(self, rows: Sequence[Row]) -> Continuation:
        """The ends of these rows, on what was kept of their beginnings."""
        ends = [row.end for row in rows]
        if not self.group.apart:
            return self._followed(self.beginning, [0] * len(ends), ends)
        beginnings = list(dict.fromkeys(row.beginning for row in rows))
        begun = [beginning[self.group.shared :] for beginning in beginnings]
        if self.group.shared:
            read = self._read(self._followed(self.beginning, [0] * len(begun), begun))
        else:
            read = self._read(self._before(begun))
        place = {beginning: number for number, beginning in enumerate(beginnings)}
        return self._followed(read, [place[row.beginning] for row in rows], ends)

    def _before(self, sequences: Sequence[Tokens]) -> Continuation:
        """Sequences with nothing before them."""
        tokens = pad(sequences, self.language_model.pad_token_id, "right")
        return Continuation.whole(tokens.to(self.language_model.device))

    def _followed(self, read: Continuation, owners: Sequence[int], ends: Sequence[Tokens]) -> Continuation:
        """Ends, each after what was read in the row that owns it."""
        kept = read.keep(torch.tensor(owners, device=self.language_model.device))
        return Continuation(self._before(ends).ends, kept.beginnings, kept.kept)

    def _read(self, sequences: Continuation) -> Continuation:
        """All of the sequences read, so that anything may follow."""
        model, anatomy = self.language_model.model, self.language_model.anatomy
        lengths = sequences.ends.lengths
        read, _ = run_and_cut(model, anatomy, sequences, lengths, range(len(anatomy.blocks)))
        return read
