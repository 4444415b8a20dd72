"""What the process of a case needs on a machine of a cluster."""

from copy import deepcopy
from pathlib import Path
from resource import getpagesize

from wfbench.deploy.plan import memory_of
from wfbench.harness.case import Case
from wfbench.network import Network
from wfbench.operations.shapes import Shapes, shapes_of


class Needs:
    """Bytes of a case; the shapes of a task's network are read once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], tuple[Shapes, int]] = {}

    def __call__(self, case: Case, limit: int) -> float:
        """What this process has now, since data and libraries are as large there, and what the case takes by the plan.

        Args:
            limit: bytes for rows, Grams and factors there; a recovery is taken to need as many besides.
        """
        try:
            found = memory_of(case.method, *self._of(case), case.budget * case.sampling.copies, float(limit))
        except Exception:  # a stranger's network may raise anything, and a method have no result; its record says so
            found = float(limit)
        return resident() + found + limit * (case.recovery.licence is not type(None))

    def _of(self, case: Case) -> tuple[Shapes, int]:
        """The shapes of its network, and how many parameters that has."""
        which = case.task.name, case.replicate
        if which not in self._known:
            net = Network(deepcopy(case.task.dense(case.replicate)))
            shapes = shapes_of(net, case.task.train_set.take([0]).inputs)
            self._known[which] = shapes, sum(tensor.numel() for tensor in net.movable.values())
        return self._known[which]


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * getpagesize()
