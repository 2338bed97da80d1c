"""Whether a model can be asked for edits at all, judged by their tokens: all of them, before any work."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from services.worker.editing.augmentation import augment_with_paraphrases
from services.worker.editing.token_positions import SubjectNotFound, locate_subject
from services.worker.language_models.batching import encode_target
from services.worker.language_models.loading import LanguageModel
from services.worker.probing.encoded_answers import encode_answers
from services.worker.probing.probes import edit_probes
from services.worker.steps.failures import StepFailed
from shared.editors import ContextHyperparameters, Hyperparameters
from shared.edits import Edit
from shared.measurement import ProbeKind
from shared.probing import DEFAULT_KINDS
from shared.states import Cause

MOST_REASONS = 10
PROBED_FIELDS = {
    ProbeKind.PARAPHRASE: "paraphrases",
    ProbeKind.NEIGHBORHOOD: "neighborhood",
    ProbeKind.ATTRIBUTE: "attribute",
    ProbeKind.PORTABILITY: "portability",
    ProbeKind.SAME_SUBJECT: "same_subject",
    ProbeKind.NEGATED: "negated",
}
FULL_STOP = 1  # the token between a context and the prompt


def check_edits_fit(
    language_model: LanguageModel,
    edits: Mapping[int, Edit],
    paraphrases: int,
    context_tokens: int,
    kinds: Collection[ProbeKind] = DEFAULT_KINDS,
) -> None:
    """Refuse edits that the model has too few positions for, or whose subject cannot be told in the prompt.

    edits: by the index that messages name them by. paraphrases: how many of each are edits of their own;
    context_tokens: of the longest text that precedes them. kinds: of the probes that will be asked.

    Raises:
        StepFailed: every edit at fault is named.
    """
    faults: dict[str, str] = {}
    for name, reason in (
        *unfit_edits(language_model, edits, paraphrases, context_tokens),
        *unfit_probes(language_model, edits, kinds),
    ):
        faults.setdefault(name, reason)
    if faults:
        raise StepFailed(Cause.USER, told(faults))


def unfit_edits(
    language_model: LanguageModel, edits: Mapping[int, Edit], paraphrases: int, context_tokens: int
) -> Iterator[tuple[str, str]]:
    """Edits, and paraphrases that are made edits of, that no editor could make: their names, and why."""
    limit = language_model.context_length
    names = [f"edits.{index}" for index in edits]
    names += [f"edits.{index}.paraphrases.{place}" for index in edits for place in range(paraphrases)]
    preceded = f" after {context_tokens} of a context" if context_tokens else ""
    for place, edit in enumerate(augment_with_paraphrases(list(edits.values()), paraphrases)):
        try:
            prompt = locate_subject(language_model.tokenizer, edit.prompt, edit.subject, place)
        except SubjectNotFound:
            yield names[place], f"the subject's last token cannot be told in '{edit.full_prompt}'"
            continue
        tokens = len(prompt.ids) + len(encode_target(language_model.tokenizer, edit.target_new))
        if limit is not None and tokens + context_tokens > limit:
            yield names[place], f"prompt and target take {tokens} tokens{preceded}, the model reads {limit}"


def unfit_probes(
    language_model: LanguageModel, edits: Mapping[int, Edit], kinds: Collection[ProbeKind]
) -> Iterator[tuple[str, str]]:
    """Prompts of the edits that cannot be asked: their names, and why."""
    limit = language_model.context_length
    if limit is None:
        return
    for index, edit in edits.items():
        probes = edit_probes([edit], paraphrases_trained_on=0, kinds=kinds)
        for probe, pair in zip(probes, encode_answers(language_model, probes), strict=True):
            tokens = max(len(continuation.inputs) for continuation in pair if continuation)
            if tokens > limit:
                field = PROBED_FIELDS.get(probe.probe_kind)
                name = f"edits.{index}.{field}.{probe.index}" if field else f"edits.{index}"
                asked = "distracted prompt" if probe.probe_kind is ProbeKind.DISTRACTED else "prompt"
                yield name, f"{asked} and answer take {tokens} tokens, the model reads {limit}"


def longest_context(hyperparameters: Hyperparameters) -> int:
    """Tokens of the longest text that an editor will have the model write to precede a prompt."""
    if isinstance(hyperparameters, ContextHyperparameters) and hyperparameters.context_count:
        return hyperparameters.context_length + FULL_STOP
    return 0


def told(faults: Mapping[str, str]) -> str:
    """All names; the reasons of the first."""
    reasons = [f"{name}: {reason}" for name, reason in faults.items()]
    if len(reasons) > MOST_REASONS:
        others = ", ".join(list(faults)[MOST_REASONS:])
        reasons = [*reasons[:MOST_REASONS], f"and likewise {others}"]
    return "; ".join(reasons)
