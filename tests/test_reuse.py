"""Rule 12: a record is reused for the same question by the same code, wherever that stands, and for nothing else."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import ClassVar

import pytest
from torch import Tensor, nn

from tests.cases import blob_network, blob_target, blob_task, blobs, case_of
from wfbench import (
    NM,
    RECOVERIES,
    Case,
    Filter,
    Network,
    Pruner,
    Record,
    Runner,
    Sampling,
    ScorePruner,
    Target,
    Task,
    WoodFisher,
    discover,
    run,
)
from wfbench.definitions import Definition, Definitions, Source, source_of
from wfbench.harness.plugins import load, pruners_of
from wfbench.harness.reuse import Question, roots

REGISTRY = discover()
PACKAGES = ("wfbench", "baselines")


@cache
def every_kind() -> dict[str, frozenset[Definition]]:
    """Where the code of every method × recovery × pattern begins."""
    found, task = {}, blob_task()
    for name, method in REGISTRY.pruners.items():
        for pattern in method.patterns:
            target = {"n:m": Target(0.5, NM(), method.scope), "filter": Target(0.5, Filter((4,)), "global", "filters")}
            for recovery in RECOVERIES.values():
                case = Case(task, 8, 0, 0, target.get(pattern, Target(0.5, scope=method.scope)), method, recovery)
                found[f"{name} {pattern} {recovery.name}"] = roots(case, task.dense())
    return found


def texts() -> dict[str, Source]:
    """The source of every module of the library and of the baselines, as the discovery names them."""
    modules = [name for name in sys.modules if name.startswith((*PACKAGES, "wfbench_plugins"))]
    found = {name: source_of(name) for name in modules}
    return {name: source for name, source in found.items() if source is not None}


def codes(changed: dict[str, Source], moved: tuple[str, str] = ("", "")) -> dict[str, str]:
    def source(module: str) -> Source | None:
        return changed.get(module) or (None if module.startswith(PACKAGES) else source_of(module))

    def place(at: Definition) -> Definition:
        return (moved[1] if moved[0] and at[0] == moved[0] else at[0]), at[1]

    definitions = Definitions(source)
    return {kind: definitions.digest(map(place, start)) for kind, start in every_kind().items()}


@cache
def before() -> dict[str, str]:
    return codes(texts())


def stale(module: str, *edits: tuple[str, str]) -> set[str]:
    """The kinds whose code an edit of one module changes."""
    changed = texts()
    text = changed[module].text
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new)
    after = codes({**changed, module: changed[module]._replace(text=text)})
    return {kind for kind, code in before().items() if after[kind] != code}


def module_of(thing: object) -> str:
    """Where it is written, whatever the layout."""
    return str(thing.__module__)


def test_there_are_hundreds_of_kinds_and_their_codes_tell_methods_apart() -> None:
    assert len(every_kind()) > 500
    assert len({before()[f"{name} {REGISTRY.pruner(name).patterns[0]} none"] for name in REGISTRY.pruners}) > 45


def test_a_changed_text_of_an_error_makes_nothing_stale() -> None:
    assert not stale(module_of(Target), ("is outside [0, 1): it is the fraction removed", "must be in [0, 1)"))


def test_what_a_method_says_of_its_source_and_fidelity_makes_nothing_stale() -> None:
    source = REGISTRY.pruner("magnitude").source
    assert not stale(module_of(type(REGISTRY.pruner("magnitude"))), (source, "somebody else"))


def test_a_new_field_of_the_record_makes_nothing_stale() -> None:
    new = '    weather: str | None = _of("result", default=None)\n'
    field = '    status: str = _of("result")\n'
    assert not stale(module_of(Record), (field, field + new))


def test_an_unused_definition_makes_nothing_stale() -> None:
    nobody = "def nobody() -> int:\n    return 1\n\n\n"
    assert not stale(module_of(Target), ("def keep_largest(", f"{nobody}def keep_largest("))


def test_a_comment_makes_nothing_stale() -> None:
    assert not stale(module_of(Target), ("def keep_largest(", "# why\ndef keep_largest("))


def test_a_private_rename_makes_nothing_stale() -> None:
    assert not stale(module_of(Target), ("_globally", "_over_all"), ("_sizes", "_numbers"), ("spent", "so_far"))
    assert not stale("wfbench.curvature.inverse", ("_Streamed", "_Chunked"), ("self._widths", "self._of_blocks"))


@pytest.mark.parametrize("module", ["wfbench.curvature.inverse", module_of(Target), module_of(RECOVERIES["repair"])])
def test_a_moved_and_renamed_module_makes_nothing_stale(module: str) -> None:
    other = "wfbench.elsewhere.renamed"
    parent, _, name = module.rpartition(".")
    moved = {}
    for at, source in texts().items():
        text = source.text.replace(f"from {module} import", f"from {other} import")
        if at == "wfbench":  # whose names are in a stub, relative to it
            text = text.replace(f"from {module.removeprefix('wfbench')} import", f"from {other} import")
        text = text.replace(f"from {parent} import {name}\n", f"from wfbench.elsewhere import renamed as {name}\n")
        moved[other if at == module else at] = source._replace(text=text)
    after = codes(moved | {"wfbench.elsewhere": Source("", True)}, (module, other))
    assert after == before()


def test_a_changed_size_of_tiles_makes_its_users_stale_and_no_other() -> None:
    found = stale("wfbench.tiles", ("numbers=2**21", "numbers=2**20"))
    definitions = Definitions(source_of)
    chunk = ("wfbench.tiles", "HOST")
    assert found == {kind for kind, start in every_kind().items() if chunk in definitions.reach(start)}
    assert {kind.split()[0] for kind in found} >= {"woodfisher", "woodtaylor", "mfac", "obert", "obc", "chita"}
    unrepaired = {kind.split()[0] for kind in found if not kind.endswith(" repair")}
    assert unrepaired.isdisjoint({"magnitude", "kfac", "wanda", "filter-l1"})


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        (module_of(Target), "equal.cumsum(0) > removed - below", "equal.cumsum(0) <= removed - below"),
        ("wfbench.tasks.evaluate", "BATCH = 50", "BATCH = 64"),
    ],
)
def test_keep_largest_and_the_evaluation_batch_make_all_stale(module: str, old: str, new: str) -> None:
    assert stale(module, (old, new)) == set(before())


def test_a_helper_of_a_plugin_counts_as_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_scores.py").write_text("def score(w):\n    return w.abs()\n")
    (tmp_path / "mine.py").write_text(
        "from mine_scores import score\nfrom wfbench import ScorePruner\n\n\nclass Mine(ScorePruner[None]):\n"
        "    name = 'mine'\n\n    def scores(self, net, data):\n"
        "        return {name: score(weight) for name, weight in net.weights.items()}\n"
    )
    (pruner,) = pruners_of(load(tmp_path / "mine.py"))
    start = roots(case_of(pruner), blob_network())
    first = Definitions().digest(start)
    assert Definitions().digest(start) == first
    (tmp_path / "mine_scores.py").write_text("def score(w):\n    return -w.abs()\n")
    assert Definitions().digest(start) != first


def flipped(w: Tensor) -> Tensor:
    return -w


@dataclasses.dataclass(frozen=True)
class ByFunction(ScorePruner[None]):
    """Ranks by a function that it is given."""

    name: ClassVar[str] = "by-function"
    score: Callable[[Tensor], Tensor] = flipped

    def scores(self, net: Network, data: None) -> dict[str, Tensor]:
        return {name: self.score(weight) for name, weight in net.weights.items()}


def test_a_function_that_a_method_is_given_counts_as_its_code() -> None:
    assert (flipped.__module__, "flipped") in roots(case_of(ByFunction()), blob_network())


TYPED = """
from tests.cases import blob_task
from wfbench import RECOVERIES, Case, ScorePruner, Target, run

class Mine(ScorePruner[None]):
    name = "mine"
    def scores(self, net, data):
        return {name: weight.abs() for name, weight in net.weights.items()}

record = run(Case(blob_task(), 8, 0, 0, Target(0.5), Mine(), RECOVERIES["none"]))
print(record.status, record.code)
"""


@pytest.mark.parametrize("how", ["-c", "-"])
def test_a_method_that_was_typed_in_runs_and_is_never_reused(how: str) -> None:
    """On the command line or on standard input, and then as a notebook compiles a cell."""
    typed = f"{TYPED}\nexec(compile({TYPED!r}, '<ipython-input-1>', 'exec'))\n"
    command = ["-c", typed] if how == "-c" else ["-"]
    root = Path(__file__).parent.parent
    found = subprocess.run([sys.executable, *command], cwd=root, input=typed, capture_output=True, text=True)
    assert found.stdout == "ok None\nok None\n", found.stderr


def question(case: Case) -> Question:
    return Runner().question(case)


def test_the_question_follows_configuration_data_and_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    base = case_of("woodfisher", task=blob_task())
    asked = question(base)
    assert question(case_of("woodfisher", task=blob_task())) == asked
    x, y = blobs(300, 0)
    nudged = nn.Sequential(*blob_network())
    nudged[0].weight.data[0, 0] += 1e-6
    test = blobs(203, 2)
    others = {
        "configuration": case_of(WoodFisher(damping=2e-5)),
        "budget": case_of("woodfisher", budget=9),
        "sparsity": case_of("woodfisher", sparsity=0.6),
        "recovery": case_of("woodfisher", recovery="batchnorm"),
        "method": case_of("woodfisher-layer"),
        "training data": case_of("woodfisher", task=Task("blobs", blob_network(), train=(x + 1e-3, y), test=test)),
        "test data": case_of("woodfisher", task=Task("blobs", blob_network(), train=(x, y), test=(x, y))),
        "checkpoint": case_of("woodfisher", task=Task("blobs", nudged, train=(x, y), test=test)),
        "draw": dataclasses.replace(case_of("woodfisher", budget=9), sampling=Sampling("k-shot")),
        "labels": dataclasses.replace(base, sampling=Sampling(wrong_labels=0.1)),
        "copies": dataclasses.replace(base, sampling=Sampling(copies=2)),
        "pattern": dataclasses.replace(base, target=Target(0.5, NM(2, 4))),
        "group": dataclasses.replace(base, target=Target(0.5, NM(1, 2))),
        "steps": dataclasses.replace(base, recovery=dataclasses.replace(RECOVERIES["distill-200"], steps=3)),
    }
    record = json.loads(run(base).as_json())
    assert asked.differences(record) == []
    for name, case in others.items():
        assert question(case).differences(record), name
    assert asked.differences(record | {"copies": 2}) == ["copies"]
    runner = Runner()
    for case in (dataclasses.replace(case, task=base.task) for case in others.values()):
        asked_alone = Runner()  # what is worked out once for all of a kind is what each has alone
        assert (runner.question(case), runner.code(case)) == (asked_alone.question(case), asked_alone.code(case))
    twice = [dataclasses.replace(base.task, augment=lambda x, _, by=by: x * by) for by in (2, 3)]
    two, three = (dataclasses.replace(base, task=task, sampling=Sampling(copies=2)) for task in twice)
    assert question(three).differences(json.loads(run(two).as_json())) == ["augmentation"]
    monkeypatch.setattr("wfbench.harness.reuse.numerics", lambda: "0.0")
    assert question(base).differences(record) == ["torch"]


def test_an_option_that_a_record_does_not_know_had_its_default() -> None:
    """The code decides whether it gave the same; another value of it is another question."""
    method = REGISTRY.pruner("magnitude-as-woodfisher[block_size=3]")
    case = case_of(method)
    record = json.loads(run(case).as_json())
    del record["options"]["method"]["flops_power"]
    assert question(case).differences(record) == []
    record["options"]["method"]["back_off"] = True
    assert question(case).differences(record) == ["options"]
    del record["options"]["method"]["back_off"], record["options"]["method"]["block_size"]
    assert question(case).differences(record) == ["options"]


def test_within_a_part_that_a_method_makes_itself_it_had_the_one_that_is_made() -> None:
    """`obs-distilled` makes its channels' method with an option that is not its own default."""
    case = case_of(REGISTRY.pruner("obs-distilled"))
    record = json.loads(run(case).as_json())
    assert record["options"]["channels"].pop("led") is True
    assert question(case).differences(record) == []
    record["options"]["channels"]["led"] = False
    assert question(case).differences(record) == ["options"]
    other = dataclasses.replace(case.method, channels=REGISTRY.pruner("obs-filter-as-woodfisher-filter-logits"))  # type: ignore[type-var]
    case = case_of(other)
    record = json.loads(run(case).as_json())
    del record["options"]["channels"]["led"]  # another part than it makes: its own default
    assert question(case).differences(record) == ["options"]


@pytest.mark.parametrize(("method", "library"), [("kfac", "curvlinops-for-pytorch"), ("tp-l2", "torch-pruning")])
def test_versions_of_the_libraries_that_a_method_reaches_are_in_the_question(method: str, library: str) -> None:
    def libraries(name: str) -> set[str]:
        pruner: Pruner = REGISTRY.pruner(name)
        case = dataclasses.replace(case_of("magnitude"), method=pruner, target=blob_target(pruner, 0.5))
        return set(question(case).said["environment"]["libraries"])

    assert library in libraries(method)
    assert library not in libraries("magnitude")
