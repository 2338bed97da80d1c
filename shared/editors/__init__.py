"""What each editor is and what it can be set to: read by the gateway, the command line and the worker."""

from shared.editors.alphaedit import AlphaEditHyperparameters
from shared.editors.catalogue import CATALOGUE
from shared.editors.description import ALMANAC, EditorDescription
from shared.editors.emmet import EmmetHyperparameters
from shared.editors.fine_tuning import FineTuningHyperparameters
from shared.editors.ft import UnconstrainedFineTuningHyperparameters
from shared.editors.ft_l import ConstrainedFineTuningHyperparameters
from shared.editors.ft_m import MaskedFineTuningHyperparameters
from shared.editors.grace import GraceHyperparameters
from shared.editors.hyperparameters import (
    ContextHyperparameters,
    Hyperparameters,
    KeyStatisticsHyperparameters,
    LayeredHyperparameters,
    TargetHyperparameters,
)
from shared.editors.ike import InContextHyperparameters
from shared.editors.knowledge_neurons import KnowledgeNeuronsHyperparameters
from shared.editors.layers import LayerNotInModel, default_layers, resolve_layers
from shared.editors.lora import LoraHyperparameters
from shared.editors.memit import MemitHyperparameters
from shared.editors.mend import MendHyperparameters
from shared.editors.pmet import PmetHyperparameters
from shared.editors.r_rome import RRomeHyperparameters
from shared.editors.rome import RomeHyperparameters
from shared.editors.sequential import BatchesDoNotFit, SequentialHyperparameters
from shared.editors.supplied import SuppliedHyperparameters
from shared.editors.ultraedit import UltraEditHyperparameters
from shared.editors.wise import WiseHyperparameters

__all__ = [
    "ALMANAC",
    "CATALOGUE",
    "AlphaEditHyperparameters",
    "BatchesDoNotFit",
    "ConstrainedFineTuningHyperparameters",
    "ContextHyperparameters",
    "EditorDescription",
    "EmmetHyperparameters",
    "FineTuningHyperparameters",
    "GraceHyperparameters",
    "Hyperparameters",
    "InContextHyperparameters",
    "KeyStatisticsHyperparameters",
    "KnowledgeNeuronsHyperparameters",
    "LayerNotInModel",
    "LayeredHyperparameters",
    "LoraHyperparameters",
    "MaskedFineTuningHyperparameters",
    "MemitHyperparameters",
    "MendHyperparameters",
    "PmetHyperparameters",
    "RRomeHyperparameters",
    "RomeHyperparameters",
    "SequentialHyperparameters",
    "SuppliedHyperparameters",
    "TargetHyperparameters",
    "UltraEditHyperparameters",
    "UnconstrainedFineTuningHyperparameters",
    "WiseHyperparameters",
    "default_layers",
    "resolve_layers",
]
