"""How a codebook grows: which token gets an entry of its own, and how far each entry reaches."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.worker.editing.codebook import Entries

# An entry that is to reach a token reaches a little further, so that rounding cannot put it out of reach.
MARGIN = 1.01


@dataclass(frozen=True)
class Growth:
    """What has become of the codebook after all edits.

    makers: by entry, the edit that made it, and which token of its target it is for. answering: by edit, the
    entry that answers for each token of its target; the token's own, or one that was there before it.
    """

    entries: Entries
    makers: list[tuple[int, int]]
    answering: list[list[int]]

    def made_by(self, edit: int) -> list[int]:
        """The entries that an edit made, in order."""
        own = {entry for entry in self.answering[edit] if self.makers[entry][0] == edit}
        return sorted(own)

    def waves(self) -> list[list[int]]:
        """The edits, those first that share no entry of another edit, then those that share only theirs, …

        Within a wave no edit needs what another learns.
        """
        depths: list[int] = []
        for edit, entries in enumerate(self.answering):
            needed = {self.makers[entry][0] for entry in entries} - {edit}
            depths.append(1 + max((depths[other] for other in needed), default=-1))
        return [
            [edit for edit, depth in enumerate(depths) if depth == wave] for wave in range(max(depths) + 1)
        ]


def grow(keys: Sequence[Tensor], labels: Sequence[Sequence[int]], first_radius: float) -> Growth:
    """Put the edits into an empty codebook one after another, token by token (GRACE, algorithm 1).

    keys: per edit, (target tokens, width) float32; labels: per edit, its target's tokens. A token far from
    every key gets an entry of its own. One whose entry would overlap with the nearest, is answered by it when
    both are for the same token, and it then reaches at least that far (expand); otherwise neither of the two
    reaches further than half-way to the other (split; the paper has both reach just as far, which would let
    an entry that was split before grow). All keys lie below the codebook in the model, so none depends on
    what is learned.
    """
    all_keys = torch.cat(list(keys))
    made = torch.empty_like(all_keys)  # its first rows are the keys so far
    radii: list[float] = []
    of_entries: list[int] = []  # labels
    makers: list[tuple[int, int]] = []
    answering: list[list[int]] = []
    for edit, of_edit in enumerate(keys):
        answering.append([])
        for position, key in enumerate(of_edit):
            label, radius = labels[edit][position], first_radius
            if makers:
                distances = torch.linalg.vector_norm(made[: len(makers)] - key, dim=-1)
                nearest = int(distances.argmin())
                distance = float(distances[nearest])
                if distance <= first_radius + radii[nearest]:
                    if of_entries[nearest] == label:
                        radii[nearest] = max(radii[nearest], MARGIN * distance)
                        answering[-1].append(nearest)
                        continue
                    radii[nearest] = min(radii[nearest], distance / 2)
                    radius = min(radius, distance / 2)
            made[len(makers)] = key
            answering[-1].append(len(makers))
            makers.append((edit, position))
            radii.append(radius)
            of_entries.append(label)
    entries = Entries(made[: len(makers)].clone(), torch.tensor(radii, device=made.device))
    return Growth(entries, makers, answering)
