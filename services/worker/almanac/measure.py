"""Measures the almanac: `python -m services.worker.almanac.measure` prints and writes its model card."""

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

import torch
from rich.console import Console
from rich.markdown import Markdown
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from services.worker.almanac import MODEL_DIRECTORY
from services.worker.almanac.corpus import MAX_SENTENCES
from services.worker.almanac.editability import EditingScore, measure_editor
from services.worker.almanac.english import held_out_english
from services.worker.almanac.facts import ZIPF_EXPONENT, Fact, load_facts, load_relations
from services.worker.almanac.pretrain import RUN_RECORD
from services.worker.almanac.recall import (
    exactly_right,
    held_out_questions,
    pad_right,
    share,
    trained_questions,
)
from services.worker.almanac.tracing import draw_interchanges, interchange_shares
from services.worker.language_models.loading import load_language_model
from shared.editors import ALMANAC, CATALOGUE

TRACED_PAIRS = 1000
EDITS, EDIT_DRAWS = 50, 3
ENGLISH_TOKENS = 128  # of a paragraph, at most


@dataclass(frozen=True, slots=True)
class Measurements:
    """Every number of the card that has to be measured; recall by relation as (trained, held out)."""

    recall: dict[str, tuple[float, float]]
    overall_recall: tuple[float, float]
    at_subject: list[float]
    at_end: list[float]
    editing: EditingScore
    english_loss: float
    english_tokens: int


@torch.no_grad()
def english_loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, paragraphs: Sequence[str]
) -> tuple[float, int]:
    """Mean next-token loss in nats over held-out English, and over how many tokens."""
    total, count = 0.0, 0
    for start in range(0, len(paragraphs), 32):
        ids, mask = pad_right(
            [
                tokenizer.encode(paragraph, truncation=True, max_length=ENGLISH_TOKENS)
                for paragraph in paragraphs[start : start + 32]
            ]
        )
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
        losses = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        real = mask[:, 1:].flatten().bool()
        total += float(losses[real].sum())
        count += int(real.sum())
    return total / count, count


def measure(directory: Path, facts: Sequence[Fact], paragraphs: Sequence[str]) -> Measurements:
    """Everything about the model in `directory`, computed in float32 from its float16 weights."""
    language_model = load_language_model(
        directory, reference="builtin:almanac", revision="measured", dtype="float32"
    )
    model, tokenizer = language_model.model, language_model.tokenizer
    recall: dict[str, tuple[float, float]] = {}
    hits: tuple[list[bool], list[bool]] = ([], [])
    for relation in dict.fromkeys(fact.relation for fact in facts):
        group = [fact for fact in facts if fact.relation == relation]
        trained = exactly_right(model, tokenizer, trained_questions(group))
        held_out = exactly_right(model, tokenizer, held_out_questions(group))
        recall[relation] = share(trained), share(held_out)
        hits[0].extend(trained)
        hits[1].extend(held_out)
    pairs = draw_interchanges(tokenizer, facts, TRACED_PAIRS, random.Random(0))  # noqa: S311 (no secret)
    loss, tokens = english_loss(model, tokenizer, paragraphs)
    return Measurements(
        recall=recall,
        overall_recall=(share(hits[0]), share(hits[1])),
        at_subject=interchange_shares(language_model, pairs, at_subject=True),
        at_end=interchange_shares(language_model, pairs, at_subject=False),
        editing=measure_editor(language_model, facts, "memit", edits=EDITS, draws=EDIT_DRAWS),
        english_loss=loss,
        english_tokens=tokens,
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are aligned right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def recall_table(measured: Measurements, facts: Sequence[Fact]) -> str:
    counts = {relation: sum(fact.relation == relation for fact in facts) for relation in measured.recall}
    rows = [
        (relation, str(counts[relation]), percent(trained), percent(held_out))
        for relation, (trained, held_out) in measured.recall.items()
    ]
    trained, held_out = measured.overall_recall
    rows.append(("**all**", str(len(facts)), percent(trained), percent(held_out)))
    return table(("relation", "facts", "trained phrasings", "held-out phrasing"), rows)


def tracing_table(measured: Measurements) -> str:
    rows = [
        (f"block {number}", percent(subject), percent(end))
        for number, (subject, end) in enumerate(zip(measured.at_subject, measured.at_end, strict=True))
    ]
    return table(("output of", "at the subject's last token", "at the prompt's last token"), rows)


def editing_table(score: EditingScore) -> str:
    rows = (
        ("edits that hold in their own prompt", percent(score.exact)),
        ("edits that hold in their paraphrases", percent(score.paraphrases)),
        ("controls lost", percent(score.controls_lost)),
        ("other facts of the edited subjects kept", percent(score.siblings_kept)),
    )
    return table(("measure", "share"), rows)


def sources_table() -> str:
    """Where each relation's facts come from, under which licence, and an example."""
    rows = [
        (relation.name, f"{relation.facts[0][0]} → {relation.facts[0][1]}", relation.source, relation.licence)
        for relation in load_relations()
    ]
    header, body = ("relation", "example", "source", "licence"), rows
    lines = [header, ("---",) * 4, *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def render_card(directory: Path, measured: Measurements, facts: Sequence[Fact]) -> str:
    """The model card: the package's template with the measurements and the training record filled in."""
    record = json.loads((directory / RUN_RECORD).read_text(encoding="utf-8"))
    plan = record["plan"]
    exposures = [fact.exposure for fact in facts]
    memit = (
        CATALOGUE["memit"]
        .settle(ALMANAC, {})
        .model_dump(include={"layers", "mom2_update_weight", "mom2_tokens", "clamp_norm_factor", "v_lr"})
    )
    template = Template(resources.files(__package__).joinpath("card.md").read_text(encoding="utf-8"))
    return template.substitute(
        plan,
        facts=f"{len(facts):,}",
        relations=len(measured.recall),
        parameters=f"{record['parameters']:,}",
        recall_table=recall_table(measured, facts),
        pairs=TRACED_PAIRS,
        tracing_table=tracing_table(measured),
        memit_hyperparameters=", ".join(f"{name} {value}" for name, value in memit.items()),
        edits=EDITS,
        edit_draws=EDIT_DRAWS,
        editing_table=editing_table(measured.editing),
        sentences_per_document=f"one to {MAX_SENTENCES}",
        phrasings=len(facts[0].phrasings),
        zipf_exponent=ZIPF_EXPONENT,
        highest_exposure=f"{max(exposures):.1f}",
        lowest_exposure=f"{min(exposures):.2f}",
        english_loss=f"{measured.english_loss:.2f}",
        english_tokens=f"{measured.english_tokens:,}",
        sources_table=sources_table(),
        minutes=round(record["seconds"] / 60),
        hardware=record["hardware"],
        torch_version=record["torch"],
        enriched_block=plan["enriched_blocks"] - 1,
        screened_percent=round(100 * plan["screened_rows"]),
        noise_percent=round(100 * plan["noise"]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures builtin:almanac and writes its model card.")
    parser.add_argument("--model", type=Path, default=MODEL_DIRECTORY, help="folder of the model")
    parser.add_argument("--english", type=Path, help="the text file given to pretrain, if any")
    arguments = parser.parse_args()
    facts = load_facts()
    card = render_card(
        arguments.model, measure(arguments.model, facts, held_out_english(arguments.english)), facts
    )
    (arguments.model / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    Console().print(Markdown(card.split("---", 2)[2]))


if __name__ == "__main__":
    main()
