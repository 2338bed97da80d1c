"""How much faster is probing than one prompt at a time? `python -m benchmarks.probing [--request FILE]`

Scores every probe of an arm of the example's audit on the built-in model, its answer and its alternative,
once with plain transformers, a forward pass per prompt and answer with the logits of all tokens, and once as
audits do it, on one thread; prints the seconds of both, their ratio, and the largest difference of any
log-probability, relative to it beyond 1. Seconds are those of the processor, which do not mind what else the
machine is busy with; the fastest of `--rounds` counts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.editing import seconds
from services.worker.almanac import MODEL_DIRECTORY
from services.worker.language_models.loading import LanguageModel, load_language_model
from services.worker.probing.probes import control_probes, edit_probes
from services.worker.probing.scoring import score
from shared.editors import ALMANAC
from shared.measurement import Probe, ProbeKind
from shared.requests import AuditRequest

EXAMPLE = Path(__file__).parents[1] / "examples" / "almanac.json"

Rating = tuple[float, bool]  # log-probability of an answer, and whether every token of it is the argmax


def main() -> None:
    """Compare and print, without prompts after distractors and with them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--request", type=Path, default=EXAMPLE, help="an audit of the built-in model")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    language_model = load_language_model(
        MODEL_DIRECTORY, reference=ALMANAC, revision="benchmark", dtype="float32"
    )
    request = AuditRequest.model_validate(json.loads(arguments.request.read_text(encoding="utf-8")))
    for name, kinds in (
        ("probes of an arm", request.probing.kinds),
        ("with distractors", (*request.probing.kinds, ProbeKind.DISTRACTED)),
    ):
        compare(name, language_model, probes_of_arm(request, kinds), arguments.rounds)


def probes_of_arm(request: AuditRequest, kinds: Sequence[ProbeKind]) -> list[Probe]:
    """What an audit asks, if all control facts that it names become controls."""
    edits = edit_probes(request.edits, paraphrases_trained_on=0, kinds=kinds, facts=request.controls.facts)
    return edits + control_probes(request.controls.facts, kinds)


def compare(name: str, language_model: LanguageModel, probes: Sequence[Probe], rounds: int) -> None:
    """Score the probes both ways and print what that took and how far the scores agree."""
    plain: list[list[Rating]] = []
    ours: list[list[Rating]] = []
    plain_seconds = min(
        seconds(lambda: plain.append(one_at_a_time(language_model, probes))) for _ in range(rounds)
    )
    our_seconds = min(seconds(lambda: ours.append(batched(language_model, probes))) for _ in range(rounds))
    pairs = list(zip(plain[0], ours[0], strict=True))
    difference = max(abs(one[0] - other[0]) / max(1, abs(one[0])) for one, other in pairs)
    print(
        f"{name}, {len(probes):,} with {len(pairs):,} answers: one at a time {plain_seconds:.2f} s,"
        f" ours {our_seconds:.2f} s, ratio {plain_seconds / our_seconds:.1f};"
        f" largest relative difference of a log-probability {difference:.1e},"
        f" {sum(one[1] != other[1] for one, other in pairs)} judged differently",
        flush=True,
    )


@torch.no_grad()
def one_at_a_time(language_model: LanguageModel, probes: Sequence[Probe]) -> list[Rating]:
    """Answer and alternative of each probe, as a loop over plain forward passes rates them."""
    model, tokenizer = language_model.model, language_model.tokenizer
    found = []
    for probe in probes:
        prompt = tokenizer.encode(probe.prompt)
        for answer in (probe.answer, probe.alternative):
            if answer is None:
                continue
            target = tokenizer.encode(f" {answer}", add_special_tokens=False)
            logits = model(input_ids=torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1]
            wanted = torch.tensor(target)
            log_probs = logits.log_softmax(dim=-1).gather(1, wanted[:, None])
            found.append((float(log_probs.sum()), bool((logits.argmax(dim=-1) == wanted).all())))
    return found


def batched(language_model: LanguageModel, probes: Sequence[Probe]) -> list[Rating]:
    """The same as audits rate them."""
    found: list[Rating] = []
    for score_of in score(language_model, probes):
        found.append((score_of.log_prob_answer, score_of.exact))
        if score_of.log_prob_alternative is not None:
            found.append((score_of.log_prob_alternative, bool(score_of.alternative_exact)))
    return found


if __name__ == "__main__":
    main()
