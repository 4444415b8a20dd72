"""A task's dense network as cases share it, and whether it still is what it was."""

from typing import Any

import torch

from wfbench.admission.network import check_network, own_copy
from wfbench.admission.splits import check_splits
from wfbench.curvature.memory import bound
from wfbench.harness.reuse import checkpoint_digest
from wfbench.kinds.network import adapted
from wfbench.modules import anatomy
from wfbench.network import Network
from wfbench.tasks.task import Task

SHARE = 8
"""Of the bound of memory, what cases share besides rows: one part of so many."""


class Dense:
    """A task's dense network on the device, with what never changes about it."""

    def __init__(self, task: Task, replicate: int, device: torch.device) -> None:
        self.module = adapted(own_copy(task.dense(replicate))).to(device).eval()
        self.digest = checkpoint_digest(self.module)
        self.network = Network(self.module)
        self.network.memo.most = bound() // SHARE
        splits = (task.train_set, *(() if task.test is None else (task.test_set,)))
        check_splits(splits, check_network(self.module, splits[-1]))
        self._anatomy = _anatomy(self.network)

    def changed(self) -> str:
        """What of the network that methods are handed is not as it was; empty where all is."""
        now = _anatomy(self.network)
        for name in (*self._anatomy, *now):
            if name not in now or name not in self._anatomy or now[name] != self._anatomy[name]:
                return name
        return "a tensor" if checkpoint_digest(self.network._module) != self.digest else ""


def _anatomy(net: Network) -> dict[str, Any]:
    """Of the module, and of what the network says of it."""
    said = {name: list(value.items()) for name, value in vars(net).items() if isinstance(value, dict)}
    weights = {name: [(key, id(one)) for key, one in found] for name, found in said.items()}
    return {**anatomy(net._module), "attributes": sorted(vars(net)), **weights}
