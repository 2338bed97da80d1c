"""Audits of one edit each: what is kept of one, and many of them pooled into one configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from retention_study.parts import ONE_BY_ONE
from retention_study.results import KeptProbing, KeptSingle, SingleOutcome, common
from services.worker.analysis.counts import FactCounts
from services.worker.analysis.inputs import ScoredProbe, Trial
from services.worker.analysis.plots import headline
from services.worker.analysis.report import report_configuration
from services.worker.analysis.retention import metric
from shared.edits import ControlFact
from shared.measurement import HEADLINE_MODE, Arm, FactKind, Mode, ProbeKind, ProbeScore
from shared.recipes import Freeze
from shared.reports import ConfigurationReport, Metric, Report
from shared.requests import Configuration
from shared.states import StepStatus
from shared.views import ResultRow

FLAGS = {True: "1", False: "0", None: "-"}
RIGHT = {flag: right for right, flag in FLAGS.items()}
MARGIN_DIGITS = 2


def kept_single(
    part: str, request: Mapping[str, Any], report: Report, rows: Sequence[ResultRow]
) -> KeptSingle:
    """What an audit of one edit found.

    rows: of the facts' own prompts, at every step of the tuning.
    """
    facts = [ControlFact.model_validate(fact) for fact in request["controls"]["facts"]]
    places = {fact.full_prompt: index for index, fact in enumerate(facts)}
    asked = {places[row.prompt] for row in rows if row.fact_kind is FactKind.CONTROL}
    prompts = [facts[index].full_prompt for index in sorted(asked)]
    return KeptSingle(
        **common(part, request, report),
        seed=report.provenance.seeds[0],
        facts=[
            f"edit:{part.removeprefix(f'{ONE_BY_ONE}-')}",
            *(f"control:{index}" for index in sorted(asked)),
        ],
        relations=[
            request["edits"][0]["relation"],
            *(facts[index].relation or "" for index in sorted(asked)),
        ],
        outcomes=[single_outcome(found, rows, prompts) for found in report.configurations],
    )


def single_outcome(
    found: ConfigurationReport, rows: Sequence[ResultRow], prompts: Sequence[str]
) -> SingleOutcome:
    """What became of the edit by one editor, the controls in the order of their prompts."""
    mine = [
        row
        for row in rows
        if row.editor == found.configuration.editor and (row.arm is Arm.EDITED) == (row.tuning_step == 0)
    ]
    paraphrases = next(
        share
        for share in found.shares
        if (share.arm, share.mode) == (Arm.EDITED, HEADLINE_MODE) and share.probe_kind is ProbeKind.PARAPHRASE
    )
    locality = headline(found.locality)
    [trial] = found.trials
    return SingleOutcome(
        editor=found.configuration.editor,
        probings=[
            kept_probing(step, [row for row in mine if row.tuning_step == step], prompts)
            for step in sorted({row.tuning_step for row in mine})
        ],
        reverted=bool(found.reversion.numerator) if found.reversion.denominator else None,
        paraphrases=(paraphrases.numerator, paraphrases.denominator),
        locality=(locality.numerator, locality.denominator),
        held_out_loss_before=trial.held_out_loss_before,
        held_out_loss_after=trial.held_out_loss_after,
    )


def kept_probing(step: int, rows: Iterable[ResultRow], prompts: Sequence[str]) -> KeptProbing:
    """The rows of one step, a place for each fact: the edit, then the controls."""
    by_fact: dict[str, dict[Mode, ResultRow]] = {}
    for row in rows:
        fact = row.prompt if row.fact_kind is FactKind.CONTROL else ""
        by_fact.setdefault(fact, {})[row.mode] = row
    ordered = [by_fact[fact] for fact in ("", *prompts)]
    return KeptProbing(
        tuning_step=step,
        right={mode: "".join(FLAGS[found[mode].right] for found in ordered) for mode in Mode},
        margins=None if step else [margin(found[HEADLINE_MODE]) for found in ordered],
    )


def margin(row: ResultRow) -> float:
    """log p(answer) − log p(alternative), which all facts of the study have."""
    assert row.log_prob_alternative is not None  # noqa: S101 (they do)
    return round(row.log_prob_answer - row.log_prob_alternative, MARGIN_DIGITS)


def pooled(singles: Sequence[KeptSingle], editor: str) -> ConfigurationReport:
    """All edits that an editor made one by one as one configuration, analysed as an audit's is.

    A control counts once for every edited model, and its answers are kept together: what is resampled is
    facts. The edits' paraphrases and neighbours are pooled by edit.
    """
    configuration = Configuration(editor=editor, paraphrases=0, recipe=ONE_BY_ONE, freeze=Freeze.NONE)
    report = report_configuration(
        configuration, [trial(single, editor, configuration) for single in singles], gate=(), lost=()
    )
    outcomes = {single.facts[0]: outcome_of(single, editor) for single in singles}
    paraphrases = of_edits(
        "share_right", {fact: found.paraphrases for fact, found in outcomes.items()}, ProbeKind.PARAPHRASE
    )
    locality = of_edits(
        "locality", {fact: found.locality for fact, found in outcomes.items()}, ProbeKind.NEIGHBORHOOD
    )
    return report.model_copy(update={"shares": [*report.shares, paraphrases], "locality": [locality]})


def outcome_of(single: KeptSingle, editor: str) -> SingleOutcome:
    """What became of the edit by this editor."""
    return next(outcome for outcome in single.outcomes if outcome.editor == editor)


def of_edits(name: str, counted: Mapping[str, tuple[int, int]], probe_kind: ProbeKind) -> Metric:
    """A share over prompts of edits, just before tuning, from (numerator, denominator) by edit."""
    facts = tuple(sorted(fact for fact, (_, asked) in counted.items() if asked))
    right, asked = np.array([counted[fact] for fact in facts], dtype=np.float64).reshape(-1, 2).T
    return metric(
        name,
        FactCounts(facts, right, asked),
        HEADLINE_MODE,
        arm=Arm.EDITED,
        fact_kind=FactKind.EDIT,
        probe_kind=probe_kind,
    )


def trial(single: KeptSingle, editor: str, configuration: Configuration) -> Trial:
    """One edited and tuned model as a trial, its probes as they were scored."""
    outcome = outcome_of(single, editor)
    before, *after = outcome.probings
    margins = before.margins or []
    arms = {
        Arm.EDITED: probes(single, before, Arm.EDITED, margins, outcome.reverted),
        Arm.EDITED_TUNED: [
            probe
            for probing in after
            for probe in probes(single, probing, Arm.EDITED_TUNED, margins, outcome.reverted)
        ],
    }
    return Trial(
        configuration=configuration,
        seed=single.seed,
        step_id="",
        status=StepStatus.SUCCEEDED,
        held_out_loss_before=outcome.held_out_loss_before,
        held_out_loss_after=outcome.held_out_loss_after,
        arms=arms,
    )


def probes(
    single: KeptSingle, probing: KeptProbing, arm: Arm, margins: Sequence[float], reverted: bool | None
) -> list[ScoredProbe]:
    """The probes of one step. Of log-probabilities only the difference is known, and only that counts."""
    return [
        ScoredProbe(
            fact_id=fact,
            fact_kind=FactKind.CONTROL if place else FactKind.EDIT,
            probe_kind=ProbeKind.REWRITE,
            probe_index=0,
            arm=arm,
            tuning_step=probing.tuning_step,
            relation=relation or None,
            score=ProbeScore(
                first_token=bool(RIGHT[probing.right[Mode.FIRST_TOKEN][place]]),
                exact=bool(RIGHT[probing.right[Mode.EXACT][place]]),
                preference=RIGHT[probing.right[Mode.PREFERENCE][place]],
                contains=RIGHT[probing.right[Mode.CONTAINS][place]],
                log_prob_answer=margins[place],
                log_prob_alternative=0.0,
                alternative_exact=None if place else reverted,
                predicted_token="",
            ),
        )
        for place, (fact, relation) in enumerate(zip(single.facts, single.relations, strict=True))
    ]
