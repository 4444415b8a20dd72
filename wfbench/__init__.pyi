"""Where the public names are; each is imported where it is first used, for torch takes seconds."""

from .channels.pattern import Filter
from .channels.pruner import ChannelPruner
from .curvature.damping import CrossValidated, Relative
from .curvature.inverse import WoodburyInverse
from .curvature.rows import fisher_rows
from .data import Dataset, Labeled, Unlabeled
from .deploy.advice import Recommendation, recommend
from .deploy.comparison import Comparison, compare_networks
from .deploy.direct import prune
from .deploy.packed import load_sparse, save_sparse
from .draws import Sampling, draw
from .errors import WfbenchError
from .export import export_onnx, export_program, load_pruned
from .harness.case import Case
from .harness.plugins import discover
from .harness.record import Record
from .harness.runner import Runner, run
from .harness.suite import Grid, Suite
from .network import Network
from .pruned import Pruned
from .pruner import Fitted, Pruner, ScorePruner
from .recoveries.base import Recovery
from .recoveries.names import RECOVERIES
from .report.frames import load_results
from .sparsity import NM, Target, Unstructured
from .tasks.task import Task
from .woodfisher.variants import WoodFisher, WoodFisherUnlabeled

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
