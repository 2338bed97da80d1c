"""What a report says of the editing itself."""

from __future__ import annotations

from pydantic import Field

from shared.paraphrases import OWN
from shared.reports.parts import Interval, ReportPart


class Effect(ReportPart):
    """A mean over facts of a gain in the probability of their answers."""

    value: float
    interval: Interval


class Tracing(ReportPart):
    """Where causal tracing (Meng et al. 2022, arXiv 2202.05262) finds that facts are recalled.

    Mean indirect effects at the subject's last token, block by block: `states` of what the block puts out,
    `mlps` of the MLPs of the `width` blocks around it. facts: how many of the candidates the base model
    answers right, and were traced; clean, corrupted: mean probability of their answers without and under
    noise on the subject. picked: the blocks that editors with `layers: auto` write to, by editor.
    """

    candidates: int
    facts: int
    width: int
    clean: float
    corrupted: float
    states: list[Effect]
    mlps: list[Effect]
    picked: dict[str, list[int]]


class KeyStatisticsUsed(ReportPart):
    """Over what the second moments of an editor's keys were taken, and how settled they are.

    corpus: what the hyperparameter `mom2_corpus` named; None for texts of the model's own. split_half: by
    block, the distance of the moments of the corpus's halves, relative to the norm of the whole's.
    """

    editor: str
    corpus: str | None
    tokens: int
    split_half: dict[int, float]


class EditNotTaken(ReportPart):
    """An edit whose own prompt the edited model does not answer exactly as it asks; index: in the request.

    answer: what greedy decoding gives instead, as many tokens as `target_new` has.
    """

    index: int
    prompt: str
    target_new: str
    answer: str


class Editing(ReportPart):
    """How one application of an editor went, before any fine-tuning.

    paraphrase_source: where the paraphrases that it was given come from. ridges: by block, what was added to
    the diagonal of a second moment that was singular or as good as that.
    """

    editor: str
    paraphrases: int
    paraphrase_source: str = OWN
    edits: int
    not_taken: list[EditNotTaken]
    ridges: dict[int, float] = Field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.editor} · k={self.paraphrases}"
