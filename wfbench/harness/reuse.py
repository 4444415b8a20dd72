"""When a stored record may be used again: it answers the same question, and its code gives the same result.

The question is what a record says of itself: identity, options, data, checkpoint, device, versions. The code is one
digest of the definitions that the case reaches by name, wherever they stand.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from wfbench.definitions import Definition, Definitions, UnreadableError
from wfbench.definitions.installed import versions
from wfbench.draws import augmentation, draw
from wfbench.execution.precision import precision
from wfbench.harness.case import Case, changed, defaults, options
from wfbench.harness.isolation import seeded
from wfbench.harness.measures import achieved_sparsity, check_finite, magnitude_overlap, realised_change
from wfbench.harness.record import DATA, IDENTITY, SPARSE, USUAL, numerics, place_of
from wfbench.licence import Licensed, handed
from wfbench.modules import bytes_of, state_of
from wfbench.network import Network
from wfbench.tasks.evaluate import evaluate, evaluation_batch

PROTOCOL = 1
"""Raised by hand where the runner asks another question with the same parts: other stages, another order."""

SHAPING: tuple[Callable[..., Any], ...] = (
    draw, handed, seeded, Network, check_finite, achieved_sparsity, evaluate, realised_change, magnitude_overlap,
)  # fmt: skip
"""What the runner calls around every method, and what so shapes every result."""

UNSAID = ("recovery_options", "pattern_options", "protocol", "libraries")
"""What records without a digest of their code do not say of the question."""

LATER = {name: USUAL[name] for name in IDENTITY if name in SPARSE}
"""What is usual of a case and left out where it is, as in records from before anything else could be."""

_DEFINITIONS = Definitions()


@dataclass(frozen=True)
class Question:
    """What a case asks.

    Args:
        said: the fields by which a record answers it, as JSON gives them back.
        usual: the defaults of the method's options, for records from before there was such an option.
    """

    said: dict[str, Any]
    usual: dict[str, Any]

    def differences(self, record: Mapping[str, Any]) -> list[str]:
        """The names of what a record answers otherwise; what old records do not say counts as said."""
        old = not record.get("code")
        given = LATER | dict(record) | {"options": _completed(record.get("options") or {}, self.usual)}
        made, environment = record.get("environment") or {}, self.said["environment"]
        pairs = [
            (name, given.get(name), wanted) for name, wanted in (LATER | self.said).items() if name != "environment"
        ]
        pairs += [(name, made.get(name), wanted) for name, wanted in environment.items()]
        return [
            name
            for name, said, wanted in pairs
            if (said or None) != (wanted or None) and not (old and name in UNSAID and said is None)
        ]

    @property
    def digest(self) -> str:
        """SHA-256 of what is said."""
        return hashlib.sha256(json.dumps(self.said, sort_keys=True).encode()).hexdigest()


def question(case: Case, module: nn.Module, checkpoint: str, device: torch.device) -> Question:
    """What the case asks of a dense network of this digest, on this device."""
    train = case.task.train_set.fingerprint
    test = train if case.task.test is None else case.task.test_set.fingerprint
    data = {"checkpoint": checkpoint[:12], "train": train[:12], "test": test[:12]}
    if case.sampling.copies > 1:
        data["augmentation"] = augmentation(case.task.train_set)[:12]
    return _asked(case, module, device, data, {})


MOST_KNOWN = 1000
"""Most parts of questions that are kept: where every case has a method object of its own, none is asked for again."""


class Questions:
    """What cases ask on a device, and by which code: worked out once for all that differ in their identity alone."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._known: dict[tuple[int, ...], tuple[tuple[object, ...], Question, str | None]] = {}

    def of(self, case: Case, module: nn.Module, checkpoint: str) -> tuple[Question, str | None]:
        """As `question` and `code`."""
        parts = (case.task, module, case.method, case.recovery, case.target.pattern, case.sampling.copies > 1)
        which = tuple(map(id, parts))
        if which not in self._known:
            if len(self._known) == MOST_KNOWN:
                self._known.clear()
            asked = question(case, module, checkpoint, self._device)
            self._known[which] = parts, asked, code(case, module)  # with the parts themselves, whose ids stay theirs
        _, asked, by = self._known[which]
        return Question(asked.said | case.identity(), asked.usual), by


def unanswerable(case: Case, reason: str, device: torch.device) -> Question:
    """What a case asks whose task cannot be prepared: it has no data, and the failure is its one answer.

    So the failed record is used again as long as the task breaks in the same way, and no longer.
    """
    return _asked(case, None, device, {}, {"status": "failed", "reason": reason})


def _asked(
    case: Case, module: nn.Module | None, device: torch.device, data: dict[str, str], answer: dict[str, str]
) -> Question:
    said = {
        **case.identity(),
        "options": options(case.method),
        "recovery_options": changed(case.recovery),
        "pattern_options": changed(case.target.pattern),
        "environment": {
            "protocol": PROTOCOL,
            "torch": numerics(),
            "libraries": versions(reached(case, module) - {"torch"}),
            **place_of(device),
            **precision(device),
            "evaluation_batch": evaluation_batch(device),
            **{name: data.get(name) for name in DATA},
            **{name: found for name, found in data.items() if name not in DATA},
        },
        **answer,
    }
    return Question(json.loads(json.dumps(said)), json.loads(json.dumps(defaults(case.method))))


def _completed(said: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """Options with the defaults of those that are missing, within the methods that a method is made of too."""
    found = {**usual, **said}
    for name, value in usual.items():
        if isinstance(value, dict) and isinstance(inner := said.get(name), dict):
            found[name] = _completed(inner, value)
    return found


def code(case: Case, module: nn.Module | None) -> str | None:
    """A digest of all definitions that shape the case's result; None where one has no source to read."""
    try:
        return _digest(roots(case, module))
    except UnreadableError:
        return None


def roots(case: Case, module: nn.Module | None) -> frozenset[Definition]:
    """Where the reading of definitions starts: method, recovery, pattern, network, and what the runner calls."""
    return frozenset({*map(_place, SHAPING), *_components(case), *_layers(module)})


def code_of(record: Mapping[str, Any]) -> str | None:
    """The code that a record was made by; those from before there was a digest go by their commit."""
    if found := record.get("code"):
        return str(found)
    commit = record.get("environment", {}).get("commit") or "+"
    return None if "code" in record or commit.endswith("+") else f"commit {commit}"


@cache
def _digest(of: frozenset[Definition]) -> str:
    return _DEFINITIONS.digest(of)[:16]


def reached(case: Case, module: nn.Module | None) -> frozenset[str]:
    """Installed packages behind method, recovery, pattern and network."""
    try:
        return _libraries(frozenset({*_components(case), *_kinds(module)}))
    except UnreadableError:
        return frozenset()


@cache
def _libraries(of: frozenset[Definition]) -> frozenset[str]:
    return frozenset(_DEFINITIONS.libraries(of))


def modules_of(case: Case) -> set[str]:
    """Where method, recovery and pattern, and what they are made of, are written."""
    return {module for module, _ in _components(case)}


def _components(case: Case) -> set[Definition]:
    return {at for part in (case.method, case.recovery, case.target.pattern) for at in _classes(part)}


def _classes(component: object) -> Iterator[Definition]:
    """Where the class of a component is written, and those of the components and functions it is made of."""
    is_written = isinstance(component, type) or hasattr(component, "__code__")  # a class or a function itself
    yield _place(component if is_written else type(component))
    for field in fields(component) if is_dataclass(component) else ():
        if is_dataclass(part := getattr(component, field.name)) or callable(part) or isinstance(part, Licensed):
            yield from _classes(part)


def _layers(module: nn.Module | None) -> set[Definition]:
    """The network's own classes; what is installed is in the checkpoint's digest and the versions."""
    return {at for at in _kinds(module) if isinstance(_DEFINITIONS.resolve(*at), tuple)}


def _kinds(module: nn.Module | None) -> set[Definition]:
    """The classes of the network's parts; none where there is no network."""
    return {_place(type(part)) for part in module.modules()} if module is not None else set()


def _place(thing: Any) -> Definition:
    return thing.__module__, thing.__qualname__.partition(".")[0]


def checkpoint_digest(module: nn.Module) -> str:
    """SHA-256 of the architecture and of every parameter and buffer, each tensor once."""
    digest = hashlib.sha256(repr(module).encode())
    for name, data in bytes_of(state_of(module)).items():
        digest.update(name.encode())
        digest.update(data)
    return digest.hexdigest()
