"""What an audit found, as the service returns it."""

from shared.reports.configurations import (
    ConfigurationReport,
    CurvePoint,
    RuleDecision,
    TrialOutcome,
)
from shared.reports.deaths import (
    Association,
    Loss,
    LostEdit,
    Mentions,
    RiskyEdit,
    WeightDrift,
    WentTo,
)
from shared.reports.editing import Editing, EditNotTaken, Effect, KeyStatisticsUsed, Tracing
from shared.reports.fluency import FluencyMetric, FluencySample
from shared.reports.mitigations import LossDifference, Mitigation
from shared.reports.overlap import RecipeOverlap
from shared.reports.parts import Difference, Interval, Metric, ReportPart, Term
from shared.reports.protocols import ProtocolMetric
from shared.reports.report import Provenance, Report, StepProblem
from shared.reports.stress import Footprint, FurtherEditsMade, StressReport
from shared.reports.survival import LogRank, Survival, SurvivalCurve, SurvivalPoint

__all__ = [
    "Association",
    "ConfigurationReport",
    "CurvePoint",
    "Difference",
    "EditNotTaken",
    "Editing",
    "Effect",
    "FluencyMetric",
    "FluencySample",
    "Footprint",
    "FurtherEditsMade",
    "Interval",
    "KeyStatisticsUsed",
    "LogRank",
    "Loss",
    "LossDifference",
    "LostEdit",
    "Mentions",
    "Metric",
    "Mitigation",
    "ProtocolMetric",
    "Provenance",
    "RecipeOverlap",
    "Report",
    "ReportPart",
    "RiskyEdit",
    "RuleDecision",
    "StepProblem",
    "StressReport",
    "Survival",
    "SurvivalCurve",
    "SurvivalPoint",
    "Term",
    "Tracing",
    "TrialOutcome",
    "WeightDrift",
    "WentTo",
]
