"""Networks, tasks and corners that several tests go through."""

from collections.abc import Callable
from copy import deepcopy
from functools import cache

import torch
from torch import Tensor, nn

from wfbench import Case, Filter, Pruner, Target, Task
from wfbench.harness.plugins import discover
from wfbench.recoveries.names import RECOVERIES
from wfbench.tasks.models import digits_cnn, mlpnet, mobilenetv1, resnet20

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
REGISTRY = discover()
DAMPINGS = [1e-7, 1e-5, 1e-3, 1.0]


class Medley(nn.Module):
    """Every kind of layer that has rows: grouped and strided convolutions, GroupNorm, LayerNorm, an in-place ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2)
        self.group = nn.GroupNorm(2, 4)
        self.relu = nn.ReLU(inplace=True)
        self.line = nn.Conv1d(4, 4, 3, dilation=2)
        self.token = nn.Linear(4, 6)
        self.layer = nn.LayerNorm(6)
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.group(self.conv(x)))
        x = self.line(x.flatten(2)).transpose(1, 2)
        return self.out(self.layer(self.token(x)).mean(1))


class Twice(nn.Module):
    """One layer called twice, and one whose output nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.unread = nn.Linear(4, 2)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.unread(x)
        return self.out(torch.tanh(self.first(torch.tanh(self.first(x)))))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlpnet": (mlpnet, (1, 28, 28)),
    "digits_cnn": (digits_cnn, (1, 8, 8)),
    "resnet20": (resnet20, (1, 28, 28)),
    "mobilenetv1": (mobilenetv1, (1, 28, 28)),
    "medley": (Medley, (2, 7, 7)),
    "twice": (Twice, (4,)),
}


def trained_looking(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A float64 network in eval mode with BatchNorm statistics that are not the initial ones."""
    torch.manual_seed(seed)
    module = build().double().eval()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_(std=0.1)
            layer.running_var.uniform_(0.5, 2)
    return module


def tiny_network() -> nn.Module:
    """Two linear layers with eight prunable weights."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(2, 2, bias=False), nn.Tanh(), nn.Linear(2, 2, bias=False)).double().eval()


def blobs(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Three Gaussian clouds in four dimensions."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    centres = torch.tensor([[2.0, 0, 0, 1], [0, 2, 0, -1], [0, 0, 2, 0]])
    return centres[labels] + 0.7 * torch.randn(n, 4, generator=generator), labels


def blob_network() -> nn.Module:
    """A small trained classifier of the clouds, a new copy each time."""
    return deepcopy(_trained())


@cache
def _trained() -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    x, y = blobs(300, 0)
    optimizer = torch.optim.Adam(module.parameters(), 0.02)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()
    return module.eval()


def blob_task(name: str = "blobs") -> Task:
    """A task that trains in a second and evaluates in a millisecond."""
    return Task(name, blob_network(), train=blobs(300, 0), validation=blobs(60, 1), test=blobs(203, 2))


def blob_target(pruner: Pruner, sparsity: float) -> Target:
    """Of single weights where the method reaches that pattern, else of the clouds' network's hidden units."""
    if "unstructured" in pruner.patterns:
        return Target(sparsity, scope=pruner.scope)
    return Target(sparsity, Filter((4,)), pruner.scope, "filters")


def case_of(
    method: str | Pruner,
    *,
    budget: int = 8,
    seed: int = 0,
    sparsity: float = 0.5,
    recovery: str = "none",
    task: Task | None = None,
) -> Case:
    """A case on the clouds, with what is usual where nothing is said."""
    pruner = REGISTRY.pruner(method) if isinstance(method, str) else method
    return Case(task or blob_task(), budget, seed, 0, blob_target(pruner, sparsity), pruner, RECOVERIES[recovery])
