"""wfbench: pruning neural networks with little data."""

from wfbench.case import Case, Record
from wfbench.curvature.inverse import WoodburyInverse
from wfbench.curvature.rows import fisher_rows
from wfbench.damping import CrossValidated, Relative
from wfbench.data import Dataset, Labeled, Sampling, Unlabeled, draw
from wfbench.errors import WfbenchError
from wfbench.filters import Filter
from wfbench.network import Network
from wfbench.plugins import discover
from wfbench.pruned import Pruned
from wfbench.pruner import Fitted, Pruner, ScorePruner
from wfbench.recoveries import RECOVERIES
from wfbench.recovery import Recovery
from wfbench.runner import Runner, run
from wfbench.saved import load_pruned
from wfbench.sparsity import NM, Target, Unstructured
from wfbench.structured import ChannelPruner
from wfbench.summary import load_results
from wfbench.tasks.task import Task
from wfbench.woodfisher import WoodFisher, WoodFisherUnlabeled

__all__ = [
    "NM",
    "RECOVERIES",
    "Case",
    "ChannelPruner",
    "CrossValidated",
    "Dataset",
    "Filter",
    "Fitted",
    "Labeled",
    "Network",
    "Pruned",
    "Pruner",
    "Record",
    "Recovery",
    "Relative",
    "Runner",
    "Sampling",
    "ScorePruner",
    "Target",
    "Task",
    "Unlabeled",
    "Unstructured",
    "WfbenchError",
    "WoodFisher",
    "WoodFisherUnlabeled",
    "WoodburyInverse",
    "discover",
    "draw",
    "fisher_rows",
    "load_pruned",
    "load_results",
    "run",
]
