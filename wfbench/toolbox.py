"""What plugins may use besides the words of `wfbench` itself: curvature, layers, channels, masks, their algebra, and
the tasks of trained checkpoints.

Everything here keeps its name and meaning from version to version; what stands elsewhere may move.
"""

from wfbench.calls import plain_calls
from wfbench.channels.costs import remove_lowest
from wfbench.channels.coupled import Coupled, dependency_graph, pruning_group
from wfbench.channels.pattern import pruned_of
from wfbench.channels.pruner import ChannelScores, by_channel, filters_of, producers
from wfbench.channels.readers import Order, Read, ReadPruner, gate_rows, over_charged
from wfbench.composed.allocated import Allocation
from wfbench.composed.ranked import Global
from wfbench.curvature.damping import Damping, check_damping
from wfbench.curvature.diagnostics import effective_rank, predicted_change, row_diagnostics
from wfbench.curvature.gram import gram
from wfbench.curvature.memory import over_columns
from wfbench.curvature.parallel import in_parallel
from wfbench.curvature.rows import Gradients, gradients
from wfbench.errors import at_least
from wfbench.layers import as_matrices, check_patches, from_matrices, least_squares, patches
from wfbench.linalg import alike, cholesky, damped, inverse
from wfbench.memo import digest_of
from wfbench.network import Params, at_a_time, flatten, unflatten
from wfbench.pruner import only_layer_scope
from wfbench.sparsity import Scope, Unit, keep_all_but, keep_largest
from wfbench.tasks.recipes import trained
from wfbench.tiles import tiles
from wfbench.walk import call_order, mean_squares, one_by_one, second_moments, walk
from wfbench.woodfisher.channel_variants import WoodFisherFilterLogits
from wfbench.woodfisher.surgeon import BlockSize

__all__ = [
    "Allocation",
    "BlockSize",
    "ChannelScores",
    "Coupled",
    "Damping",
    "Global",
    "Gradients",
    "Order",
    "Params",
    "Read",
    "ReadPruner",
    "Scope",
    "Unit",
    "WoodFisherFilterLogits",
    "alike",
    "as_matrices",
    "at_a_time",
    "at_least",
    "by_channel",
    "call_order",
    "check_damping",
    "check_patches",
    "cholesky",
    "damped",
    "dependency_graph",
    "digest_of",
    "effective_rank",
    "filters_of",
    "flatten",
    "from_matrices",
    "gate_rows",
    "gradients",
    "gram",
    "in_parallel",
    "inverse",
    "keep_all_but",
    "keep_largest",
    "least_squares",
    "mean_squares",
    "one_by_one",
    "only_layer_scope",
    "over_charged",
    "over_columns",
    "patches",
    "plain_calls",
    "predicted_change",
    "producers",
    "pruned_of",
    "pruning_group",
    "remove_lowest",
    "row_diagnostics",
    "second_moments",
    "tiles",
    "trained",
    "unflatten",
    "walk",
]
