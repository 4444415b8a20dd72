"""A task: a dense network and the data it was trained for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.utils.data import Subset

from wfbench.data import Augment, Dataset, MapStyle
from wfbench.draws import draw_indices
from wfbench.errors import WfbenchError
from wfbench.kinds.network import unwrapped
from wfbench.tasks.evaluate import Measure, Scores

Source: TypeAlias = tuple[Tensor, Tensor] | Tensor | MapStyle
Split: TypeAlias = Source | Callable[[], Source]
Module: TypeAlias = nn.Module | Callable[[], nn.Module]


@dataclass(frozen=True, eq=False)
class Task:
    """A named dense checkpoint (or several, from different training seeds) with its dataset.

    Args:
        name: lower case, `dataset-network`.
        module: the trained network: a `torch.nn.Module`, or a function that makes one; a tuple of these
            for several dense checkpoints, which a case tells apart by its `replicate`.
        train: where calibration samples are drawn from: a map-style dataset, a pair of tensors
            `(inputs [n, *input], labels [n])`, or a function that makes one; without labels a tensor of inputs alone or
            a dataset of them, for methods that need none. A sample may have several places, as a text has a next word
            everywhere: labels `[n, *places]`, logits `[n, classes, *places]`, the loss the mean over places.
        test: read by suites alone. Without labels the score is agreement with the dense network on it; without a test
            split, on the inputs of `train` that a draw leaves out (on the drawn ones, where it leaves none).
        validation: what methods are developed on.
        transform: applied to each single input of every split, as in torchvision.
        augment: makes copies of calibration samples: `augment(input, generator)` changes one transformed input in a way
            that keeps its label, by the generator's numbers alone.
        accuracies: the registered test accuracy of each checkpoint, in [0, 1]; verified by `wfbench doctor`.
        perplexities: the same of the exp of the mean loss, of tasks that are scored by it.
        about: one line for `wfbench list`.
        fetch: puts the data where they are read from, for `wfbench fetch`, and says where that is.
        on_request: large, or the user's to bring: used where it is named alone, and no part of "all tasks".
    """

    name: str
    module: Module | tuple[Module, ...]
    train: Split
    test: Split | None = None
    validation: Split | None = None
    transform: Callable[[Any], Any] | None = None
    augment: Augment | None = None
    accuracies: tuple[float, ...] = ()
    perplexities: tuple[float, ...] = ()
    about: str = ""
    fetch: Callable[[], object] | None = None
    on_request: bool = False

    @property
    def replicates(self) -> int:
        """How many dense checkpoints the task has."""
        return len(self.module) if isinstance(self.module, tuple) else 1

    def dense(self, replicate: int = 0) -> nn.Module:
        """The trained network of checkpoint `replicate`; the caller must not change it."""
        modules = self.module if isinstance(self.module, tuple) else (self.module,)
        if not modules:
            raise WfbenchError(f"{self.name} has no dense checkpoint; train one with `wfbench train {self.name}`")
        if not 0 <= replicate < len(modules):
            raise WfbenchError(f"{self.name} has checkpoints 0 to {len(modules) - 1}, not {replicate}")
        made = modules[replicate]
        made = made if isinstance(made, nn.Module) else made()
        if not isinstance(made, nn.Module):
            raise WfbenchError(f"{self.name}: `module` gave a {type(made).__name__}, not a torch.nn.Module")
        return unwrapped(made)

    def scored_on(self, n: int) -> "Task":
        """This task scored on a fixed subset of `n` test samples, `NAME[n]`; what is registered is not its own.

        Raises:
            WfbenchError: `n` below 1 or above the number of test samples.
        """
        chosen = draw_indices(len(self.test_set), n, 0, f"{self.name} test")
        whole = self.test() if callable(self.test) else self.test
        part: Any = (whole[0][chosen], whole[1][chosen]) if isinstance(whole, tuple) else Subset(whole, chosen)  # type: ignore[arg-type]
        return replace(self, name=f"{self.name}[{n}]", test=part, accuracies=(), perplexities=())

    def check_registered(self, replicate: int, scores: Scores) -> None:
        """The dense network reproduces its registered accuracy to two images, its perplexity to a thousandth.

        Where a sample has several places, to a thousandth of the places.

        Raises:
            WfbenchError: it does not.
        """
        off: list[str] = []
        for registered in self.accuracies[replicate : replicate + 1]:
            if abs(scores.correct - registered * scores.total) > (2.0001 if scores.places == 1 else scores.total / 1e3):
                off.append(f"{scores.correct} of {scores.total} right, registered accuracy is {registered}")
        for registered in self.perplexities[replicate : replicate + 1]:
            if abs(scores.perplexity - registered) > registered / 1e3:
                off.append(f"perplexity {scores.perplexity:.4f}, registered is {registered}")
        if off:
            raise WfbenchError(
                f"{self.name}, checkpoint {replicate}: {'; '.join(off)}; do not trust this machine's numbers before "
                "that is explained"
            )

    @cached_property
    def train_set(self) -> Dataset:
        return self._dataset(self.train, "train")

    @cached_property
    def test_set(self) -> Dataset:
        if self.test is None:
            raise WfbenchError(f"{self.name} has no test split; give `test=` to its Task")
        return self._dataset(self.test, "test")

    def scoring(self, drawn: Sequence[int]) -> tuple[Measure, Dataset]:
        """What the scores of a case are, and what they are of.

        Args:
            drawn: which samples of `train` are its calibration samples.
        """
        if self.test is not None:
            return "accuracy" if self.test_set.labelled else "agreement", self.test_set
        rest = sorted({*range(len(self.train_set))} - {*drawn})
        return ("agreement-undrawn", self.train_set.part(rest)) if rest else ("agreement-drawn", self.train_set)

    @cached_property
    def validation_set(self) -> Dataset:
        if self.validation is None:
            raise WfbenchError(f"{self.name} has no validation split; give `validation=` to its Task")
        return self._dataset(self.validation, "validation")

    def _dataset(self, split: Split, name: str) -> Dataset:
        made = split() if callable(split) else split
        return Dataset(made, f"{self.name} {name}", self.transform, self.augment if name == "train" else None)
