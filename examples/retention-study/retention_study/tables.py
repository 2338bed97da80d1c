"""The tables of the study, as Markdown, from results alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from retention_study.findings import Findings
from retention_study.hypotheses import Comparison, Decision, Hypothesis, comparisons, decide, of_mitigations
from retention_study.instruments import gap_of_two, of_mode
from retention_study.markdown import (
    NAMES,
    distinct,
    how_edited,
    mean_loss,
    names,
    p_value,
    ratio,
    share,
    table,
    with_count,
)
from retention_study.parts import ONE_BY_ONE
from retention_study.results import KeptReport
from services.cli.wording import (
    NOTHING,
    nats_with_interval,
    percent_with_interval,
    points_with_interval,
)
from services.worker.analysis.plots import headline
from shared.measurement import Arm, FactKind, Mode, ProbeKind
from shared.reports import ConfigurationReport, Mitigation

NUMBER = re.compile(r"\d+(?:\.\d+)?")
EDITED_PROMPTS = (Arm.EDITED, FactKind.EDIT, ProbeKind.REWRITE)
EDITED_PARAPHRASES = (Arm.EDITED, FactKind.EDIT, ProbeKind.PARAPHRASE)
TUNED_CONTROLS = (Arm.BASE_TUNED, FactKind.CONTROL, ProbeKind.REWRITE)
LEGEND = (
    "Shares are in per cent, differences in percentage points, each with its 95 % interval over facts. An "
    "answer is right in mode `exact` unless said otherwise. What each table shows is in the "
    "[README](README.md)."
)


def page(findings: Findings) -> str:
    """All tables that can be made of what is there."""
    sections = [
        ("Hypotheses", hypotheses_table(findings)),
        ("Before tuning", editing_table(findings)),
        ("Edits against control facts", decay_table(findings.unmitigated)),
        ("One instrument or two", instruments_table(findings.unmitigated)),
        ("Lost edits", reversion_table(findings.unmitigated)),
        ("The tuning tasks", task_table(findings.unmitigated)),
        ("Paraphrases", mitigation_table(findings.paraphrases)),
        ("Freezing", mitigation_table(findings.freezing)),
        ("What was run", run_table(findings)),
        ("Warnings of the audits, and of how many", remarks(findings)),
    ]
    parts = ["# Tables", LEGEND, *(f"## {title}\n\n{table}" for title, table in sections)]
    return "\n\n".join(parts) + "\n"


def hypotheses_table(findings: Findings) -> str:
    """Each hypothesis: the comparisons named in advance, then how all of them came out."""
    found = comparisons(findings.unmitigated, findings.mitigations)
    rows = []
    for hypothesis in Hypothesis:
        mine = [part for part in found if part.hypothesis is hypothesis]
        primary = [part for part in mine if part.primary]
        rows += [comparison_row(part) for part in primary]
        if mine:
            rows.append([hypothesis, f"all {len(mine)} comparisons", NOTHING, outcomes(mine)])
    return table(["hypothesis", "comparison", "difference", "decision"], rows)


def comparison_row(part: Comparison) -> list[str]:
    """One comparison with its decision."""
    return [
        part.hypothesis,
        f"**{part.configuration}**",
        points_with_interval(part.difference),
        f"**{part.decision}**",
    ]


def outcomes(found: Iterable[Comparison]) -> str:
    """How many comparisons came out how."""
    counted = Counter(part.decision for part in found)
    return ", ".join(f"{counted[decision]} {decision}" for decision in Decision if counted[decision])


def editing_table(findings: Findings) -> str:
    """What the editors reached before any tuning; the objective makes no difference yet."""
    reports = [*findings.objectives[:1], *findings.paraphrases]
    found = [part for report in reports for part in report.configurations]
    rows = [
        [
            part.configuration.editor,
            how_edited(part.configuration),
            str(part.configuration.paraphrases),
            share(part, *EDITED_PROMPTS),
            share(part, *EDITED_PARAPHRASES),
            percent_with_interval(headline(part.locality)),
        ]
        for part in [*found, *findings.one_by_one]
    ]
    header = ["editor", "edits", "paraphrases", "took", "held in other phrasings", "neighbours kept"]
    return table(header, rows)


def decay_table(found: Sequence[ConfigurationReport]) -> str:
    """Retention of edits and of controls, their difference, and the test that they last equally long."""
    rows = []
    for part in found:
        decay = headline(part.excess_decay)
        log_rank = part.survival.log_rank if part.survival else None
        rows.append(
            [
                *names(part.configuration),
                with_count(headline(part.retention_edits)),
                with_count(headline(part.retention_controls)),
                points_with_interval(decay),
                points_with_interval(headline(part.excess_decay_matched)),
                ratio(log_rank.hazard_ratio, log_rank.hazard_ratio_interval) if log_rank else NOTHING,
                p_value(log_rank.p_value) if log_rank and in_a_batch(part) else NOTHING,
                str(decide(decay)),
            ]
        )
    header = [
        *NAMES,
        "edits kept",
        "controls kept",
        "excess decay",
        "matched",
        "hazard ratio",
        "log-rank p",
        "hypothesis 1",
    ]
    return table(header, rows)


def instruments_table(found: Sequence[ConfigurationReport]) -> str:
    """The seed study's two instruments against one for both: how much of the gap is the instruments'."""
    rows = []
    for part in found:
        edits, controls, gap = gap_of_two(part)
        one = [points_with_interval(of_mode(part.excess_decay, mode)) for mode in Mode]
        rows.append(
            [
                *names(part.configuration),
                percent_with_interval(edits),
                percent_with_interval(controls),
                points_with_interval(gap),
                *one,
            ]
        )
    header = [*NAMES, "edits, first token", "controls, contained", "gap of the two"]
    return table([*header, *(f"both {mode.replace('_', ' ')}" for mode in Mode)], rows)


def reversion_table(found: Sequence[ConfigurationReport]) -> str:
    """Of the edits that were lost, how many went back to the old answer."""
    rows = [[*names(part.configuration), with_count(part.reversion)] for part in found]
    return table([*NAMES, "lost edits that reverted"], rows)


def task_table(found: Sequence[ConfigurationReport]) -> str:
    """Whether the tunings learned anything, and what they cost facts of a model that nobody edited."""
    rows = [
        [
            *names(part.configuration),
            mean_loss(trial.held_out_loss_before for trial in part.trials),
            mean_loss(trial.held_out_loss_after for trial in part.trials),
            share(part, *TUNED_CONTROLS),
        ]
        for part in found
    ]
    return table([*NAMES, "held-out loss before", "after", "controls right, base → tuned"], rows)


def mitigation_table(reports: Sequence[KeptReport]) -> str:
    """What every mitigation gained over its plain sibling, and what it cost."""
    rows = []
    for report in reports:
        against = {str(found.configuration): found for found in report.mitigations}
        decisions = {str(part.configuration): part.decision for part in of_mitigations(report.mitigations)}
        for part in report.configurations:
            name = str(part.configuration)
            rows.append(
                [
                    part.configuration.editor,
                    str(part.configuration.paraphrases),
                    part.configuration.freeze,
                    with_count(headline(part.retention_edits)),
                    percent_with_interval(headline(part.retention_controls)),
                    *(gains_and_costs(against[name]) if name in against else [NOTHING] * 4),
                    decisions.get(name, NOTHING),
                ]
            )
    header = ["editor", "paraphrases", "frozen", "edits kept", "controls kept", "edits gained"]
    return table([*header, "task loss cost, nats", "neighbours cost", "rank", "hypothesis"], rows)


def gains_and_costs(found: Mitigation) -> list[str]:
    """Cells on retention gained, cost on the task, cost on locality, and rank among its siblings."""
    return [
        points_with_interval(found.retention_gained),
        nats_with_interval(found.task_loss_cost),
        points_with_interval(found.locality_cost_tuned),
        f"{found.rank}{', on the front' if found.pareto else ''}",
    ]


def run_table(findings: Findings) -> str:
    """What the numbers rest on, and what did not go as planned."""
    found = [file.provenance for file in findings.files]
    facts = {
        "audits of a batch": str(len(findings.files) - len(findings.singles)),
        "audits of one edit": str(len(findings.singles)),
        "model": distinct(
            f"{part.model}, {part.dtype}, revision {part.model_revision[:12]}" for part in found
        ),
        "packages": distinct(
            ", ".join(f"{name} {version}" for name, version in sorted(part.packages.items()))
            for part in found
        ),
        "Python": distinct(part.python_version for part in found),
        "device": distinct(f"{part.device}, {part.threads} threads, {part.platform}" for part in found),
        "did not succeed": distinct(problem for file in findings.files for problem in file.problems),
    }
    return table(["", ""], [[name, value] for name, value in facts.items()])


def in_a_batch(part: ConfigurationReport) -> bool:
    """Whether edits and controls have alike many trials, as the log-rank test by permuting facts supposes.

    One by one, an edit has one and a control one for every edited model.
    """
    return part.configuration.recipe != ONE_BY_ONE


def remarks(findings: Findings) -> str:
    """What the audits warned of, and how many of them did; warnings that differ in numbers alone are one."""
    numbers: dict[str, list[list[float]]] = {}
    for file in findings.files:
        for warning in set(file.warnings):
            found = [float(number) for number in NUMBER.findall(warning)]
            numbers.setdefault(NUMBER.sub("{}", warning), []).append(found)
    lines = (
        f"- {wording.format(*map(span, zip(*told, strict=True)))} ({len(told)})"
        for wording, told in sorted(numbers.items())
    )
    return "\n".join(lines) or "None."


def span(numbers: Iterable[float]) -> str:
    """From the least to the greatest."""
    least, *between = sorted(set(numbers))
    return f"{least:g}–{between[-1]:g}" if between else f"{least:g}"
