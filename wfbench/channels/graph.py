"""torch-pruning's dependency graph, with a limit. A module of its own, as that library takes seconds to import."""

import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch_pruning
from torch import nn

from wfbench.errors import WfbenchError

POSITIONS = 2**18
"""Most positions of a group's channels, over all layers, that are followed; VGG-16 has 150 000, Swin any number."""


class Graph(torch_pruning.DependencyGraph):  # type: ignore[misc]
    """torch-pruning's graph, which gives up where the positions of a group's channels multiply without end."""

    followed = 0

    def build_dependency(self, *args: Any, **options: Any) -> Any:
        built = super().build_dependency(*args, **options)
        for node in self.module2node.values():
            for dependency in node.dependencies:
                dependency.index_mapping = _Followed(self, dependency.index_mapping)
        return built

    def cut(self, made: Sequence[nn.Module], read: Sequence[nn.Module]) -> None:
        """Follow no channels beyond the outputs of some layers, and none into the inputs of others."""
        outputs, inputs = {id(layer) for layer in made}, {id(layer) for layer in read}

        def beyond(node: Any, function: Any) -> bool:
            return id(node.module) in (outputs if self.is_out_channel_pruning_fn(function) else inputs)

        for node in self.module2node.values():
            node.dependencies = [
                one
                for one in node.dependencies
                if not (beyond(one.source, one.trigger) or beyond(one.target, one.handler))
            ]

    def get_pruning_group(self, module: nn.Module, pruning_fn: Any, idxs: Sequence[int]) -> Any:
        self.followed = 0
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch-pruning, about how deep it looks
                return super().get_pruning_group(module, pruning_fn, idxs)
        except Exception as error:  # it may fail in any way where it misreads an operation
            raise WfbenchError(
                f"channels of {self._module2name[module]} cannot be followed through the network "
                f"({type(error).__name__}: {error}); leave structured pruning out"
            ) from error


class _Followed(list[Any]):
    """What maps the positions of channels from layer to layer, and counts them for its graph."""

    def __init__(self, graph: Graph, mappings: Sequence[Any]) -> None:
        super().__init__(mappings)
        self._graph = graph

    def __iter__(self) -> Iterator[Any]:
        return (None if mapping is None else partial(self._counted, mapping) for mapping in super().__iter__())

    def _counted(self, mapping: Any, positions: Any) -> Any:
        each = 1 if mapping.reverse else getattr(mapping, "_stride", 1)
        self._graph.followed += each * len(positions)
        if self._graph.followed > POSITIONS:
            raise RuntimeError(f"they come to stand in more than {POSITIONS} places, as in shifted windows")
        return mapping(positions)
