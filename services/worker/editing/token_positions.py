"""Where the subject ends in each prompt, as tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from services.worker.language_models.batching import encode_prompts
from services.worker.language_models.loading import LanguageModel
from shared.edits import SLOT, Edit


class SubjectNotFound(Exception):
    """An edit whose subject's last token cannot be told in a prompt."""

    def __init__(self, edit_index: int, prompt: str) -> None:
        super().__init__(f"edits.{edit_index}: the subject's last token cannot be told in '{prompt}'")
        self.edit_index = edit_index


class SubjectTruncated(Exception):
    """An edit whose prompt and target exceed what the model reads at once."""

    def __init__(self, edit_index: int, tokens: int, context_length: int) -> None:
        super().__init__(
            f"edits.{edit_index}: prompt and target take {tokens} tokens, the model reads {context_length}"
        )
        self.edit_index = edit_index


@dataclass(frozen=True)
class SubjectSequence:
    """A prompt's token ids, and the index of the subject's last token among them (BOS counted)."""

    ids: tuple[int, ...]
    subject_position: int

    def up_to_subject(self) -> "SubjectSequence":
        """The sequence cut after the subject: in a causal model nothing later bears on it."""
        return SubjectSequence(self.ids[: self.subject_position + 1], self.subject_position)


def subject_sequences(
    language_model: LanguageModel, edits: Sequence[Edit], templates: Sequence[str]
) -> list[list[SubjectSequence]]:
    """Tokenize every edit's subject in every template: one list per edit, in the templates' order.

    templates: texts with one `{}`, which stands for the subject; see `prompt_templates` for those that
    hold an edit's own prompt. Raises SubjectNotFound.
    """
    return [
        [locate_subject(language_model.tokenizer, template, edit.subject, index) for template in templates]
        for index, edit in enumerate(edits)
    ]


def prompt_sequences(
    language_model: LanguageModel, edits: Sequence[Edit], contexts: Sequence[str]
) -> list[list[SubjectSequence]]:
    """Tokenize every edit's prompt in every context: one list per edit, in the contexts' order.

    contexts: texts with one `{}`, which stands for the edit's prompt. Raises SubjectNotFound.
    """
    return [
        [
            locate_subject(language_model.tokenizer, context.replace(SLOT, edit.prompt), edit.subject, index)
            for context in contexts
        ]
        for index, edit in enumerate(edits)
    ]


def locate_subject(
    tokenizer: PreTrainedTokenizerBase, template: str, subject: str, edit_index: int
) -> SubjectSequence:
    """Put the subject for `{}` and find its last token.

    That is the last token of the text up to and including the subject. Where that text is tokenized
    otherwise once the prompt goes on (its last token merges with what follows), it is the token that holds
    the subject's last character.
    """
    before, _, after = template.partition(SLOT)
    up_to_subject = before + subject
    prompt = up_to_subject + after
    head, ids = encode_prompts(tokenizer, [up_to_subject, prompt])
    if ids[: len(head)] == head and len(head) > 0:
        return SubjectSequence(tuple(ids), len(head) - 1)
    if tokenizer.is_fast:
        spans = tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
        for position, (start, end) in enumerate(spans):
            if start < len(up_to_subject) <= end:
                return SubjectSequence(tuple(ids), position)
    raise SubjectNotFound(edit_index, prompt)


def check_lengths(
    language_model: LanguageModel,
    sequences: Sequence[Sequence[SubjectSequence]],
    target_lengths: Sequence[int],
) -> None:
    """Raise SubjectTruncated for the first edit whose longest prompt with its target is too long."""
    limit = language_model.context_length
    for index, (prompts, target_length) in enumerate(zip(sequences, target_lengths, strict=True)):
        tokens = max(len(prompt.ids) for prompt in prompts) + target_length
        if limit is not None and tokens > limit:
            raise SubjectTruncated(index, tokens, limit)
