"""What an edit asks of the model, in tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.worker.editing.contexts import Contexts
from services.worker.editing.token_positions import (
    SubjectSequence,
    check_lengths,
    prompt_sequences,
    subject_sequences,
)
from services.worker.language_models.batching import encode_target
from services.worker.language_models.loading import LanguageModel
from shared.edits import Edit

ESSENCE_TEMPLATE = "{} is a"


@dataclass(frozen=True)
class TargetRequest:
    """One edit, in tokens.

    prompts: in every context, the bare one first. essence: "{subject} is a", over which the divergence is
    taken. target_ids: what each prompt shall be followed by.
    """

    prompts: tuple[SubjectSequence, ...]
    essence: SubjectSequence
    target_ids: tuple[int, ...]

    def rows(self) -> list[tuple[int, ...]]:
        """Token ids of every sequence to run: prompts with the target but its end, then the essence."""
        return [*(prompt.ids + self.target_ids[:-1] for prompt in self.prompts), self.essence.ids]

    @property
    def essence_row(self) -> int:
        """Index of the sequence in which the essence is read: the bare prompt's where it begins with it."""
        bare, essence = self.prompts[0].up_to_subject(), self.essence.up_to_subject()
        return 0 if bare == essence else len(self.prompts)

    def sequences(self) -> list[SubjectSequence]:
        """What is run to find the target vector: prompts with the target but its end, then the essence.

        The essence ends with its subject, where it is read, and is left out where the bare prompt has it.
        """
        prompts = [
            SubjectSequence(prompt.ids + self.target_ids[:-1], prompt.subject_position)
            for prompt in self.prompts
        ]
        return [*prompts, self.essence.up_to_subject()][: max(len(prompts), self.essence_row + 1)]


def target_requests(
    language_model: LanguageModel, edits: Sequence[Edit], contexts: Contexts
) -> list[TargetRequest]:
    """Tokenize every edit in every context.

    Raises SubjectNotFound, or SubjectTruncated when a prompt and its target exceed the context length.
    """
    prompts = prompt_sequences(language_model, edits, contexts.flat)
    essences = subject_sequences(language_model, edits, [ESSENCE_TEMPLATE])
    targets = [encode_target(language_model.tokenizer, edit.target_new) for edit in edits]
    check_lengths(language_model, prompts, [len(target) for target in targets])
    return [
        TargetRequest(tuple(of_edit), essence, tuple(target))
        for of_edit, (essence,), target in zip(prompts, essences, targets, strict=True)
    ]
