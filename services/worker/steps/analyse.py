"""The last step: gathers what the others measured, builds the report and its page, states the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import delete, insert, select
from sqlmodel import Session, col

from services.worker.analysis.inputs import AuditFindings, EditFeatures, ScoredProbe, Trial
from services.worker.analysis.page import render_page
from services.worker.analysis.report import build_report
from services.worker.steps.context import AuditContext, StepOutcome
from services.worker.steps.environment import UNRECORDED, differences
from services.worker.steps.measured import chosen_controls, recorded_fluency
from services.worker.steps.overlap import recorded_overlap
from services.worker.steps.progress import progress_of_part
from services.worker.steps.storing import store_patiently
from services.worker.steps.stress_trials import stress_findings
from shared.database import database_now
from shared.edits import Edit, normal
from shared.events import append_event
from shared.measurement import Arm, FactKind, ProbeKind, ProbeScore
from shared.recipes import Objective
from shared.reports import (
    Editing,
    KeyStatisticsUsed,
    Mentions,
    Provenance,
    StepProblem,
    Tracing,
    WeightDrift,
)
from shared.reports.parts import PER_PAIR, PER_TOKEN
from shared.requests import AuditRequest, Configuration
from shared.states import StepKind, StepStatus
from shared.tables import Audit, ProbeRow, Step, StoredReport

LOSS_UNITS = {
    Objective.CAUSAL_LM: PER_TOKEN,
    Objective.INSTRUCTIONS: PER_TOKEN,
    Objective.PREFERENCE: PER_PAIR,
}


def run(context: AuditContext, step: Step) -> StepOutcome:
    """Build the report and its page; the report is published together with the step's success."""
    report = build_report(gather(context, step))
    page_text = render_page(report).encode()
    page = store_patiently(context, step, lambda: context.store.put(page_text, ".html"))

    def publish(session: Session) -> None:
        session.execute(delete(StoredReport).where(col(StoredReport.audit_id) == step.audit_id))
        session.execute(
            insert(StoredReport).values(
                audit_id=step.audit_id,
                report=report.model_dump(mode="json"),
                page=page.name,
                page_sha256=page.sha256,
                created_at=database_now(),
            )
        )
        append_event(session, step.audit_id, "audit.verdict", verdict=report.verdict, why=report.why)

    return StepOutcome(record={"verdict": report.verdict}, artifact=page, publish=publish)


def gather(context: AuditContext, step: Step) -> AuditFindings:
    """Put the trials together from the steps and their probe scores; the model is not needed."""
    steps = [step for step in context.steps() if step.kind is not StepKind.ANALYSE]
    base = next((step for step in steps if step.kind is StepKind.BASE), None)
    outcome = (base.outcome if base else None) or {}
    request = context.request
    scored = all_scored_probes(context, step, steps) if outcome else {}
    now = select(database_now())  # a worker's own clock may be wrong
    return AuditFindings(
        audit_id=context.audit.id,
        created_at=context.read(lambda session: session.execute(now).scalar_one()),
        configurations=request.configurations(),
        gate=request.gate,
        trials=list(trials(context, steps, scored)) if outcome else [],
        stress=list(stress_findings(context, steps, scored)) if outcome else [],
        edits=len(request.edits),
        controls=len(outcome.get("controls", [])),
        control_candidates=outcome.get("control_candidates", 0),
        problems=[problem(other) for other in steps if other.status is not StepStatus.SUCCEEDED],
        warnings=warnings(steps),
        provenance=provenance(context, steps),
        overlap=recorded_overlap(steps),
        editing=list(editing(steps, request)),
        tracing=tracing(steps),
        key_statistics=key_statistics(steps),
        features=edit_features(request.edits, steps),
    )


def trials(
    context: AuditContext, steps: list[Step], scored: Mapping[str, list[ScoredProbe]]
) -> Iterable[Trial]:
    """One trial per configuration and seed, each with the four arms that could be measured."""
    by_id = {other.id: other for other in steps}
    base = next(other for other in steps if other.kind is StepKind.BASE)
    tunings = [other for other in steps if other.kind in {StepKind.TUNE, StepKind.PROBE}]
    of_base = {same_tuning(tuning): tuning for tuning in tunings if tuning.inputs["edit_step"] is None}
    units = {recipe.name: LOSS_UNITS[recipe.objective] for recipe in context.request.recipes}
    for configuration in context.request.configurations():
        for tuning in tunings:
            edit = by_id.get(tuning.inputs["edit_step"] or "")
            if edit is None or configuration_of(tuning) != configuration:
                continue
            record, base_tuning = tuning.outcome or {}, of_base.get(same_tuning(tuning))
            yield Trial(
                configuration=configuration,
                seed=tuning.inputs["seed"],
                step_id=tuning.id,
                status=tuning.status,
                error=tuning.error or edit.error,
                reused=tuning.source_step_id not in {None, tuning.id},
                held_out_loss_before=record.get("held_out_loss_before"),
                held_out_loss_after=record.get("held_out_loss_after"),
                loss_unit=units.get(configuration.recipe, PER_TOKEN),
                steps=record.get("steps"),
                base_steps=(base_tuning.outcome or {}).get("steps") if base_tuning else None,
                fluency=recorded_fluency(
                    {
                        Arm.BASE: base,
                        Arm.BASE_TUNED: base_tuning,
                        Arm.EDITED: edit,
                        Arm.EDITED_TUNED: tuning,
                    }
                ),
                drift=[WeightDrift.model_validate(matrix) for matrix in record.get("drift", [])],
                arms={
                    Arm.BASE: scored[base.id],
                    Arm.BASE_TUNED: scored[base_tuning.id] if base_tuning else [],
                    Arm.EDITED: scored[edit.id],
                    Arm.EDITED_TUNED: scored[tuning.id],
                },
            )


def configuration_of(tuning: Step) -> Configuration:
    """The configuration that a tuning of an edited model belongs to."""
    return Configuration.model_validate({field: tuning.inputs[field] for field in Configuration.model_fields})


def same_tuning(tuning: Step) -> tuple[str, int, tuple[int, ...], tuple[str, ...]]:
    """What a tuning of the base and one of an edited model must share to be compared."""
    blocks, parameters = (
        tuple(tuning.inputs.get(part, ())) for part in ("frozen_blocks", "frozen_parameters")
    )
    return tuning.inputs["recipe"], tuning.inputs["seed"], blocks, parameters


def fact_relations(context: AuditContext) -> dict[str, str | None]:
    """The relation of every fact, by the ids that probes carry."""
    relations = {f"edit:{index}": edit.relation for index, edit in enumerate(context.request.edits)}
    for index, fact in enumerate(chosen_controls(context)):
        relations[f"control:{index}"] = fact.relation
    return relations


def all_scored_probes(context: AuditContext, step: Step, steps: list[Step]) -> dict[str, list[ScoredProbe]]:
    """The probe scores of every step, by its id."""
    relations = fact_relations(context)
    scored = {}
    progress = progress_of_part(context, step, "read the scores of {done} of {whole} steps")
    for number, other in enumerate(steps, start=1):
        scored[other.id] = scored_probes(context, other, relations)
        progress(number, len(steps))
    return scored


def scored_probes(context: AuditContext, step: Step, relations: dict[str, str | None]) -> list[ScoredProbe]:
    """The probe scores that a step stands for; none where it did not succeed."""
    if step.status is not StepStatus.SUCCEEDED or step.source_step_id is None:
        return []
    query = select(ProbeRow).where(col(ProbeRow.step_id) == step.source_step_id).order_by(col(ProbeRow.id))

    def read(session: Session) -> list[ScoredProbe]:
        return [
            ScoredProbe(
                fact_id=row.fact_id,
                fact_kind=FactKind(row.fact_kind),
                probe_kind=ProbeKind(row.probe_kind),
                probe_index=row.probe_index,
                arm=Arm(row.arm),
                tuning_step=row.tuning_step,
                relation=relations.get(row.fact_id),
                score=ProbeScore(
                    first_token=row.first_token,
                    exact=row.exact,
                    preference=row.preference,
                    log_prob_answer=row.log_prob_answer,
                    log_prob_alternative=row.log_prob_alternative,
                    alternative_exact=row.alternative_exact,
                    predicted_token=row.predicted_token,
                    contains=row.contains,
                    answer_tokens=row.answer_tokens,
                    answer_hits=row.answer_hits,
                    alternative_tokens=row.alternative_tokens,
                    predictions=row.predictions,
                    predicted_answer=row.predicted_answer,
                ),
            )
            for row in session.execute(query).scalars()
        ]

    return context.read(read)


def problem(step: Step) -> StepProblem:
    """A step that did not succeed, as the report names it."""
    return StepProblem(
        step_id=step.id, title=step.title, status=step.status, cause=step.cause, error=step.error
    )


def warnings(steps: list[Step]) -> list[str]:
    """What the steps warn of, and whether they are to be compared at all to the last digit."""
    outcomes = [step.outcome or {} for step in steps]
    told = [warning for outcome in outcomes for warning in outcome.get("warnings", [])]
    return told + differences(outcome["environment"] for outcome in outcomes if "environment" in outcome)


def editing(steps: list[Step], request: AuditRequest) -> Iterable[Editing]:
    """How each edit step went that got to its end."""
    sources = {choice.key: choice.paraphrase_source for choice in request.editors}
    for step in steps:
        if step.kind is StepKind.EDIT and step.outcome is not None:
            yield Editing(
                editor=step.inputs["editor"],
                paraphrases=step.inputs["paraphrases"],
                paraphrase_source=sources[step.inputs["editor"]],
                edits=len(request.edits),
                not_taken=step.outcome["not_taken"],
                ridges=step.outcome.get("ridges", {}),
            )


def edit_features(edits: Sequence[Edit], steps: list[Step]) -> dict[str, EditFeatures]:
    """What is known of every edit beside its scores, by the fact id that its probes carry."""
    outcomes = {step.kind: step.outcome for step in steps if step.outcome is not None}
    tokens = outcomes.get(StepKind.EDIT, {}).get("target_tokens", [])
    counted: dict[str, dict[str, int]] = outcomes.get(StepKind.PLAN, {}).get("mentions", {})
    return {
        f"edit:{index}": EditFeatures(
            index=index,
            prompt=edit.prompt,
            subject=edit.subject,
            target_new=edit.target_new,
            target_true=edit.target_true,
            paraphrases=len(edit.paraphrases),
            target_tokens=tokens[index] if tokens else None,
            mentions={
                recipe: Mentions(
                    target_new=counts.get(normal(edit.target_new), 0),
                    target_true=counts.get(normal(edit.target_true), 0),
                    subject=counts.get(normal(edit.subject), 0),
                )
                for recipe, counts in counted.items()
            },
        )
        for index, edit in enumerate(edits)
    }


def tracing(steps: list[Step]) -> Tracing | None:
    """What the plan traced, if it did."""
    plan = next(step for step in steps if step.kind is StepKind.PLAN)
    traced = (plan.outcome or {}).get("tracing")
    return None if traced is None else Tracing.model_validate(traced)


def key_statistics(steps: list[Step]) -> list[KeyStatisticsUsed]:
    """What the edit steps recorded of their key statistics, once per editor."""
    used: dict[str, KeyStatisticsUsed] = {}
    for step in steps:
        recorded = (step.outcome or {}).get("key_statistics")
        if step.kind is StepKind.EDIT and recorded is not None:
            editor, corpus = step.inputs["editor"], step.inputs["hyperparameters"]["mom2_corpus"]
            used[editor] = KeyStatisticsUsed(editor=editor, corpus=corpus, **recorded)
    return list(used.values())


def provenance(context: AuditContext, steps: list[Step]) -> Provenance:
    """What it takes to run the audit again: the base step's environment, and what the plan settled."""
    recorded = {
        step.kind: step.outcome or {} for step in steps if step.kind in {StepKind.PLAN, StepKind.BASE}
    }
    audit_id = context.audit.id
    revision = context.read(lambda session: session.get_one(Audit, audit_id).model_revision)
    return Provenance(
        **recorded.get(StepKind.BASE, {}).get("environment", UNRECORDED),
        model=context.audit.model_reference,
        model_revision=revision or "unknown",
        edit_set_hash=context.edit_set.content_hash,
        data_hashes=recorded[StepKind.PLAN].get("data_hashes", {}),
        seeds=list(context.request.seeds),
    )
