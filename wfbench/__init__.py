"""wfbench: pruning neural networks with little data."""

from wfbench.channels.pattern import Filter
from wfbench.channels.pruner import ChannelPruner
from wfbench.curvature.damping import CrossValidated, Relative
from wfbench.curvature.inverse import WoodburyInverse
from wfbench.curvature.rows import fisher_rows
from wfbench.data import Dataset, Labeled, Sampling, Unlabeled, draw
from wfbench.deploy.advice import Recommendation, recommend
from wfbench.deploy.comparison import Comparison, compare_networks
from wfbench.deploy.direct import prune
from wfbench.deploy.packed import load_sparse, save_sparse
from wfbench.errors import WfbenchError
from wfbench.export import export_onnx, export_program, load_pruned
from wfbench.harness.case import Case
from wfbench.harness.plugins import discover
from wfbench.harness.record import Record
from wfbench.harness.runner import Runner, run
from wfbench.harness.suite import Grid, Suite
from wfbench.network import Network
from wfbench.pruned import Pruned
from wfbench.pruner import Fitted, Pruner, ScorePruner
from wfbench.recoveries.base import Recovery
from wfbench.recoveries.names import RECOVERIES
from wfbench.report.frames import load_results
from wfbench.sparsity import NM, Target, Unstructured
from wfbench.tasks.task import Task
from wfbench.woodfisher.variants import WoodFisher, WoodFisherUnlabeled

__all__ = [
    "NM",
    "RECOVERIES",
    "Case",
    "ChannelPruner",
    "Comparison",
    "CrossValidated",
    "Dataset",
    "Filter",
    "Fitted",
    "Grid",
    "Labeled",
    "Network",
    "Pruned",
    "Pruner",
    "Recommendation",
    "Record",
    "Recovery",
    "Relative",
    "Runner",
    "Sampling",
    "ScorePruner",
    "Suite",
    "Target",
    "Task",
    "Unlabeled",
    "Unstructured",
    "WfbenchError",
    "WoodFisher",
    "WoodFisherUnlabeled",
    "WoodburyInverse",
    "compare_networks",
    "discover",
    "draw",
    "export_onnx",
    "export_program",
    "fisher_rows",
    "load_pruned",
    "load_results",
    "load_sparse",
    "prune",
    "recommend",
    "run",
    "save_sparse",
]
