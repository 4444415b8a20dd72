"""A suite: the declared grid of a marker, cut down by the user's options."""

from dataclasses import dataclass, replace

from wfbench.case import Case
from wfbench.errors import WfbenchError
from wfbench.plugins import Registry
from wfbench.recoveries import RECOVERIES
from wfbench.recovery import Recovery
from wfbench.sparsity import Target


@dataclass(frozen=True)
class Suite:
    """Which cases a marker runs. An empty `tasks` or `methods` means all there are.

    Args:
        name: the marker, and the name of the record file.
        budgets: numbers of calibration samples.
        sparsities: fractions of weights removed.
        recoveries: names of what follows the pruning.
        seeds: draws 0 … seeds−1; draw s is run on dense checkpoint s mod (checkpoints of the task).
        tasks: names.
        methods: names.
    """

    name: str
    budgets: tuple[int, ...]
    sparsities: tuple[float, ...]
    recoveries: tuple[str, ...]
    seeds: int
    tasks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()

    def narrowed(self, **chosen: tuple[object, ...] | int | None) -> "Suite":
        """This suite with the user's choices in place of the declared ones."""
        return replace(self, **{name: value for name, value in chosen.items() if value is not None})  # type: ignore[arg-type]

    def cases(self, registry: Registry) -> list[Case]:
        """Every case, ordered so that neighbours share as much as they can: draw, budget (largest first), method.

        Raises:
            WfbenchError: an unknown task, method or recovery; a budget, sparsity or number of draws out of range.
        """
        if self.seeds < 1:
            raise WfbenchError(f"{self.seeds} draws: give at least 1")
        recoveries = [_recovery(name) for name in self.recoveries]
        methods = [registry.pruner(name) for name in self.methods or sorted(registry.pruners)]
        return [
            Case(task, budget, seed, seed % max(1, task.replicates), target, method, recovery)
            for task in [registry.task(name) for name in self.tasks or registry.tasks]
            for seed in range(self.seeds)
            for budget in sorted(self.budgets, reverse=True)
            for method in methods
            for target in [Target(sparsity, scope=method.scope) for sparsity in sorted(self.sparsities)]
            for recovery in recoveries
        ]


def _recovery(name: str) -> Recovery:
    if name not in RECOVERIES:
        raise WfbenchError(f'unknown recovery "{name}"; there are: {", ".join(RECOVERIES)}')
    return RECOVERIES[name]
