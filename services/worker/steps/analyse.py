"""The last step: gathers what the others measured, builds the report and its page, states the verdict."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import delete, insert, select
from sqlmodel import Session, col

from services.worker.analysis.inputs import AuditFindings, ScoredProbe, Trial
from services.worker.analysis.page import render_page
from services.worker.analysis.report import build_report
from services.worker.steps.context import AuditContext, StepOutcome
from services.worker.steps.environment import UNRECORDED, differences
from services.worker.steps.measured import chosen_controls
from services.worker.steps.progress import progress_of_part
from services.worker.steps.storing import store_patiently
from shared.database import database_now
from shared.events import append_event
from shared.measurement import Arm, FactKind, ProbeKind, ProbeScore
from shared.reports import Provenance, StepProblem
from shared.requests import Configuration
from shared.states import StepKind, StepStatus
from shared.tables import Audit, ProbeRow, Step, StoredReport


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
    now = select(database_now())  # a worker's own clock may be wrong
    return AuditFindings(
        audit_id=context.audit.id,
        created_at=context.read(lambda session: session.execute(now).scalar_one()),
        configurations=request.configurations(),
        gate=request.gate,
        trials=list(trials(context, step, steps)) if outcome else [],
        edits=len(request.edits),
        controls=len(outcome.get("controls", [])),
        control_candidates=outcome.get("control_candidates", 0),
        problems=[problem(other) for other in steps if other.status is not StepStatus.SUCCEEDED],
        warnings=warnings(steps),
        provenance=provenance(context, steps),
    )


def trials(context: AuditContext, step: Step, steps: list[Step]) -> Iterable[Trial]:
    """One trial per configuration and seed, each with the four arms that could be measured."""
    by_id = {other.id: other for other in steps}
    scored = all_scored_probes(context, step, steps)
    base = next(other for other in steps if other.kind is StepKind.BASE)
    tunings = [other for other in steps if other.kind is StepKind.TUNE]
    of_base = {same_tuning(tuning): tuning for tuning in tunings if tuning.inputs["edit_step"] is None}
    for configuration in context.request.configurations():
        for tuning in tunings:
            edit = by_id.get(tuning.inputs["edit_step"] or "")
            if edit is None or configuration_of(tuning) != configuration:
                continue
            record = tuning.outcome or {}
            yield Trial(
                configuration=configuration,
                seed=tuning.inputs["seed"],
                step_id=tuning.id,
                status=tuning.status,
                error=tuning.error or edit.error,
                reused=tuning.source_step_id not in {None, tuning.id},
                held_out_loss_before=record.get("held_out_loss_before"),
                held_out_loss_after=record.get("held_out_loss_after"),
                arms={
                    Arm.BASE: scored[base.id],
                    Arm.BASE_TUNED: scored[of_base[same_tuning(tuning)].id],
                    Arm.EDITED: scored[edit.id],
                    Arm.EDITED_TUNED: scored[tuning.id],
                },
            )


def configuration_of(tuning: Step) -> Configuration:
    """The configuration that a tuning of an edited model belongs to."""
    return Configuration.model_validate({field: tuning.inputs[field] for field in Configuration.model_fields})


def same_tuning(tuning: Step) -> tuple[str, int, tuple[int, ...]]:
    """What a tuning of the base and one of an edited model must share to be compared."""
    return tuning.inputs["recipe"], tuning.inputs["seed"], tuple(tuning.inputs["frozen_blocks"])


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
