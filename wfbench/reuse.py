"""The key that says whether a stored record may be used again, and the digests that it is made of."""

import ast
import hashlib
import json
import sys
from dataclasses import fields, is_dataclass
from functools import cache
from types import ModuleType

import torch
from torch import nn

from wfbench.case import Case, numerics, options
from wfbench.evaluate import BATCH

NOT_SCIENCE = ("wfbench.plugins", "wfbench.store", "wfbench.errors")


def reuse_key(case: Case, module: nn.Module, checkpoint: str, device: torch.device, harness: ModuleType) -> str:
    """SHA-256 over code, configuration, data, checkpoint and numerics version: equal keys, equal science fields."""
    classes = {type(part).__module__ for part in module.modules()}
    own = {name for name in classes if not name.startswith("torch.")}
    parts = (case.method, case.recovery, case.target.pattern)
    roots = {harness.__name__}.union(own, *(_modules(part) for part in parts))
    content = {
        "identity": case.identity(),
        "method": options(case.method),
        "recovery": options(case.recovery),
        "pattern": options(case.target.pattern),
        "code": sorted(_source(name) for name in _closure(frozenset(roots))),
        "train": case.task.train_set.fingerprint,
        "test": case.task.test_set.fingerprint,
        "checkpoint": checkpoint,
        "numerics": [numerics(), device.type, BATCH],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _modules(component: object) -> set[str]:
    """Where the class of a component is written, and those of the components it is made of."""
    parts = [getattr(component, field.name) for field in fields(component)] if is_dataclass(component) else []
    return {type(component).__module__}.union(*(_modules(part) for part in parts if is_dataclass(part)))


def checkpoint_digest(module: nn.Module) -> str:
    """SHA-256 of the architecture and of every parameter and buffer."""
    digest = hashlib.sha256(repr(module).encode())
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@cache
def _closure(roots: frozenset[str]) -> frozenset[str]:
    """The modules that the roots take objects from, within wfbench and the plugin's own file."""
    found, queue = set[str](), list(roots)
    while queue:
        name = queue.pop()
        if name in found or name in NOT_SCIENCE or name not in sys.modules:
            continue
        found.add(name)
        for value in vars(sys.modules[name]).values():
            origin = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if isinstance(origin, str) and origin.startswith("wfbench."):
                queue.append(origin)
    return frozenset(found)


@cache
def _source(name: str) -> str:
    """Digest of a module's code without comments, docstrings and layout."""
    file = sys.modules[name].__file__
    if file is None:
        return ""
    with open(file) as text:
        tree = ast.parse(text.read())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and isinstance(body, list):
            node.body = [part for part in body if not _is_text(part)] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
