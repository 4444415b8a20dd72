"""Names of methods: what they mean, what is wrong with one, and that every record's name means what it did."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfbench import (
    CrossValidated,
    Network,
    Pruner,
    Relative,
    ScorePruner,
    WfbenchError,
    WoodFisher,
    WoodFisherUnlabeled,
)
from wfbench.composed.allocated import Allocation
from wfbench.composed.gradual import Gradual
from wfbench.composed.matched import LayerMatched
from wfbench.composed.names import (
    ALLOCATED,
    CONTROLS,
    STEPWISE,
    Allocated,
    Method,
    Transplanted,
    Tree,
    Wrapped,
    build,
    options_of,
    parse,
)
from wfbench.composed.ranked import Global
from wfbench.composed.staged import Staged
from wfbench.composed.transplant import KEPT, Transplant
from wfbench.composed.tuned import Tuned
from wfbench.harness.case import options
from wfbench.harness.plugins import discover
from wfbench.harness.store import record_files
from wfbench.network import Params
from wfbench.recoveries.names import recovery_of

REGISTRY = discover()
MAGNITUDE, LOBS, OBC, OBERT = (REGISTRY.pruner(name) for name in ("magnitude", "lobs", "obc", "obert"))
JOINT = REGISTRY.pruner("woodfisher-joint")
OBS_FILTER, THINET = REGISTRY.pruner("obs-filter"), REGISTRY.pruner("thinet")
OBS_FILTER_DAMPED = replace(OBS_FILTER, damping=0.1)  # type: ignore[type-var]
TREE = Method("woodfisher", (("damping", "1e-3"), ("update", "joint")))


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("woodfisher", WoodFisher()),
        ("woodfisher[damping=1e-3]", WoodFisher(damping=1e-3)),
        ("woodfisher[damping=2]", WoodFisher(damping=2.0)),
        ("woodfisher[damping=1e+3]", WoodFisher(damping=1e3)),
        ("woodfisher[damping=relative:0.1]", WoodFisher(damping=Relative(0.1))),
        ("woodfisher[block_size=null][stages=null]", WoodFisher(block_size=None)),
        ("woodfisher[block_size=layer][update=joint]", WoodFisher(block_size="layer", update="joint")),
        ("woodfisher[block_size=50][flops_power=1]", WoodFisher(block_size=50, flops_power=1.0)),
        ("woodfisher[back_off=true]", WoodFisher(back_off=True)),
        ("woodfisher-unlabeled[draws=4][damping=relative:0.1]", WoodFisherUnlabeled(draws=4, damping=Relative(0.1))),
        ("lobs[damping=cross-validated]", Tuned(LOBS, CrossValidated())),
        ("woodfisher[damping=cross-validated][batch=2]", Tuned(WoodFisher(batch=2), CrossValidated())),
        ("obert[damping=relative:0.1]", type(OBERT)(damping=Relative(0.1))),  # type: ignore[call-arg]
        ("gradual-woodfisher[damping=1e-3]", Gradual(WoodFisher(damping=1e-3))),
        ("gradual[steps=4]-woodfisher[damping=1e-3]", Gradual(WoodFisher(damping=1e-3), steps=4)),
        ("staged[stages=3][restore=false]-magnitude", Staged(MAGNITUDE, stages=3, restore=False)),
        ("staged-lobs[damping=cross-validated]", Staged(Tuned(LOBS, CrossValidated()))),
        ("gradual[rate=.1]-staged[stages=2]-magnitude", Gradual(Staged(MAGNITUDE, stages=2), rate=0.1)),
        ("random-as-woodfisher[batch=2]", LayerMatched(WoodFisher(batch=2), "random")),
        ("magnitude-as-gradual[steps=3]-magnitude", LayerMatched(Gradual(MAGNITUDE, steps=3), "magnitude")),
        ("obc-as-staged-magnitude", Allocation(OBC, Staged(MAGNITUDE))),
        ("global-obc", Global(OBC)),
        ("global[stages=2]-obc[damping=0.1]", Global(type(OBC)(damping=0.1), stages=2)),  # type: ignore[call-arg]
        ("obc[damping=0.1]-as-magnitude", Allocation(type(OBC)(damping=0.1), MAGNITUDE)),  # type: ignore[call-arg]
        ("staged-obc-as-lobs-as-magnitude", Staged(Allocation(OBC, Allocation(LOBS, MAGNITUDE)))),
        ("obs-filter-led-by-thinet", Allocation(OBS_FILTER, THINET, led=True)),
        ("obs-filter[damping=0.1]-led-by-thinet", Allocation(OBS_FILTER_DAMPED, THINET, led=True)),
        ("obs-filter-led-by-obs-filter-as-thinet", Allocation(OBS_FILTER, Allocation(OBS_FILTER, THINET), led=True)),
        ("magnitude+kept", Transplant(MAGNITUDE)),
        ("staged-magnitude+woodfisher-joint", Transplant(Staged(MAGNITUDE), JOINT)),
        ("magnitude+obc+woodfisher[batch=2]", Transplant(Transplant(MAGNITUDE, OBC), WoodFisher(batch=2))),
    ],
)
def test_what_a_name_means(name: str, method: Pruner[Any]) -> None:
    found = REGISTRY.pruner(name)
    assert found == method
    assert found.name == name
    assert (found.licence, found.scope, found.patterns) == (method.licence, method.scope, method.patterns)
    assert WoodFisher.name == REGISTRY.pruner("woodfisher").name == "woodfisher"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (
            "gradual-magnitude[of=woodfisher]",
            'magnitude has no option "of" for "magnitude[of=woodfisher]"; it has: none',
        ),
        (
            "gradual[of=obc]-magnitude",
            'gradual has no option "of" for "gradual[of=obc]-magnitude"; it has: steps, start',
        ),
        ("gradual-magnitude[steps=3]", '"steps" .* it has: none; gradual has it: gradual[steps=3]-METHOD'),
        ("kfac-filter[factors=1]", 'kfac-filter has no option "factors" for .*; it has: damping'),
        ("woodfisher[dampin=1]", 'woodfisher has no option "dampin" for .*; it has: damping, block_size'),
        ("magnitude[damping=cross-validated]", 'magnitude has no option "damping"'),
        ("woodfisher[batch=2][batch=3]", '"woodfisher[batch=2][batch=3]": batch is given twice'),
        (
            "woodfisher[stages=two]",
            '"woodfisher[stages=two]": stages of woodfisher must be an integer or null, not "two"',
        ),
        ("woodfisher[fisher=exact]", 'fisher of woodfisher must be empirical, not "exact"'),
        (
            "woodfisher-unlabeled[fisher=nonsense]",
            'fisher of woodfisher-unlabeled must be sampled, exact or logits, not "nonsense"',
        ),
        ("woodfisher[block_size=abc]", 'block_size of woodfisher must be an integer, layer or null, not "abc"'),
        ("woodfisher[batch=1.5]", 'batch of woodfisher must be an integer, not "1.5"'),
        ("woodfisher[back_off=1]", 'back_off of woodfisher must be true or false, not "1"'),
        ("lobs[damping=relative:0.1]", 'damping of lobs must be a number or cross-validated, not "relative:0.1"'),
        (
            "woodfisher[damping=relativ:1]",
            'damping of woodfisher must be a number, relative:SHARE or cross-validated, not "relativ:1"',
        ),
        ("woodfisher-filter[per=filters]", 'per of woodfisher-filter must be params, macs or null, not "filters"'),
        ("staged[restore=no]-obc", 'restore of staged must be true or false, not "no"'),
    ],
)
def test_an_option_that_is_none_and_a_value_of_another_type_are_refused(name: str, problem: str) -> None:
    pattern = problem.replace("[", r"\[").replace("]", r"\]")
    with pytest.raises(WfbenchError, match=pattern):
        REGISTRY.pruner(name)


@pytest.mark.parametrize(
    "text", ["", "small", "relative:", "relativ:1", "relative:nan", "nan", "1e", " 1", "1_0", "inf"]
)
def test_a_value_that_is_no_damping_is_refused(text: str) -> None:
    with pytest.raises(WfbenchError, match=rf"write \[option=value\]|must be a number, .* not \"{text}\""):
        REGISTRY.pruner(f"woodfisher[damping={text}]")


def everyone_with(option: str) -> list[str]:
    return [name for name, pruner in REGISTRY.pruners.items() if option in options_of(type(pruner))]


BELOW = [
    *(f"{name}[damping=-1]" for name in everyone_with("damping")),
    *(f"{name}[{option}=0]" for option in ("batch", "draws") for name in everyone_with(option)),
    *(
        "woodfisher[stages=0]",
        "woodfisher[block_size=0]",
        "woodfisher[flops_power=-1]",
        "woodfisher[damping=relative:0]",
    ),
    *("woodfisher-filter[stages=0]", "woodfisher-filter[rank=0]"),
    *("woodfisher-staged[stages=0]", "woodfisher-staged[steps=-1]", "lobs[damping=1e999]", "chita[rounds=-1]"),
    *("sparsegpt[block=0]", "obd-hessian[probes=0]", "snows[horizon=0]", "snows[newton=-1]", "snows[products=0]"),
]


@pytest.mark.parametrize("name", BELOW)
def test_a_number_out_of_range_is_refused_with_method_and_field(name: str) -> None:
    option = name.partition("[")[2].partition("=")[0]
    with pytest.raises(WfbenchError) as found:
        REGISTRY.pruner(f"gradual-{name}")
    problem = str(found.value).removeprefix(f'"{name}": ')
    assert option in problem != str(found.value)


@pytest.mark.parametrize(
    "option",
    ["steps=0", "start=1", "epochs=0", "last_epochs=0", "rate=-1", "momentum=-1", "decay=-1", "batch=0", "seen=0"],
)
def test_a_wrappers_number_out_of_range_is_refused(option: str) -> None:
    with pytest.raises(WfbenchError, match=rf'^"gradual\[{option}\]-magnitude": {option.partition("=")[0]}'):
        REGISTRY.pruner(f"gradual[{option}]-magnitude")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "a method is missing at character 1"),
        ("+kept", "a method is missing at character 1"),
        ("magnitude+", "an update is missing at character 11"),
        ("magnitude++kept", "an update is missing at character 11"),
        ("gradual-", "a method is missing at character 9"),
        ("magnitude-as-[a=1]", "a method is missing at character 14"),
        ("gradual", '"-METHOD" is missing behind gradual at character 8'),
        ("gradual[steps=4]+kept", '"-METHOD" is missing behind gradual[steps=4] at character 17'),
        ("magnitude[", 'no "]" closes the "[" at character 10'),
        ("lobs+obc[damping=1", 'no "]" closes the "[" at character 9'),
        ("magnitude[]", "write [option=value] at character 10"),
        ("magnitude[a]", "write [option=value] at character 10"),
        ("magnitude[=1]", "write [option=value] at character 10"),
        ("magnitude[a=]", "write [option=value] at character 10"),
        ("magnitude[a=[b]]", "write [option=value] at character 10"),
        ("magnitude]", 'unexpected "]" at character 10'),
        ("magnitude[a=1]]", 'unexpected "]" at character 15'),
        ("woodfisher[damping=1]-joint", 'unexpected "-joint" at character 22'),
        ("magnitude-as[by=random]-obc", 'unexpected "-obc" at character 24'),
    ],
)
def test_a_malformed_name_is_refused_with_the_place(name: str, problem: str) -> None:
    with pytest.raises(WfbenchError) as found:
        REGISTRY.pruner(name)
    assert str(found.value) == f'malformed method name "{name}": {problem}'


@pytest.mark.parametrize(
    ("ask", "name", "answer"),
    [
        (
            REGISTRY.pruner,
            "wodfisher",
            "unknown method .wodfisher.; did you mean woodfisher, woodfisher-[a-z]+ or [a-z-]+",
        ),
        (REGISTRY.pruner, "WoodFisher[damping=1]", "unknown method .WoodFisher.; did you mean woodfisher"),
        (REGISTRY.pruner, "magnitude-as-obx", "unknown method .obx.; did you mean ob[cd] or ob[cd]"),
        (REGISTRY.pruner, "gradul-magnitude", "unknown method .gradul-magnitude.; did you mean gradual-magnitude"),
        (REGISTRY.pruner, "my-typo", "unknown method .my-typo.; `wfbench list` shows what there is"),
        (REGISTRY.task, "digit-cnn[100]", "unknown task .digit-cnn.; did you mean digits-cnn"),
        (REGISTRY.task, "mnist", "unknown task .mnist.; `wfbench list` shows what there is"),
        (recovery_of, "batch-norm", "unknown recovery .batch-norm.; did you mean batchnorm"),
        (recovery_of, "magic", "unknown recovery .magic.; there are: none, batchnorm"),
    ],
)
def test_an_unknown_name_is_met_with_those_like_it(ask: Any, name: str, answer: str) -> None:
    with pytest.raises(WfbenchError, match=answer) as found:
        ask(name)
    assert len(str(found.value)) < 200


@dataclass(frozen=True)
class Mine(ScorePruner[None]):
    """A stranger's method, with its own checks."""

    name: str = "gradual-mine"  # type: ignore[misc]
    rule: Literal["mean", "max"] = "mean"
    power: float | None = None
    label: str = ""
    of: ClassVar[int] = 1
    inner: WoodFisher | None = None
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.power == 0:
            raise ValueError("power 0 ranks nothing")

    def scores(self, net: Network, data: None) -> Params:
        return net.weights


class Bare(ScorePruner[None]):
    """No dataclass."""

    name = "bare"

    def scores(self, net: Network, data: None) -> Params:
        return net.weights


def test_a_strangers_method_is_read_by_its_types_and_checks() -> None:
    named = {"gradual-mine": Mine(), "odd[name]+": Mine(name="odd[name]+"), "bare": Bare()}
    find = lambda name: build(parse(name, named), named)  # noqa: E731
    assert list(options_of(Mine)) == ["rule", "power", "label"]
    assert find("gradual-mine[rule=max][power=2][label=a b]") == Mine(
        name="gradual-mine[rule=max][power=2][label=a b]", rule="max", power=2.0, label="a b"
    )
    assert find("odd[name]+") is named["odd[name]+"]
    assert find("gradual-gradual-mine") == Gradual(Mine())
    with pytest.raises(WfbenchError, match=r'"gradual-mine\[power=0\]": power 0 ranks nothing'):
        find("gradual-mine[power=0]")
    with pytest.raises(WfbenchError, match='bare has no option "power"'):
        find("bare[power=0]")


def test_types_that_cannot_be_read_are_an_error() -> None:
    @dataclass(frozen=True)
    class Late(Mine):
        late: "Missing" = 0  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(WfbenchError, match="Late's fields cannot be read: name 'Missing' is not defined; import"):
        options_of(Late)


words = st.from_regex(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", fullmatch=True)
keys = st.from_regex(r"[a-z_]+", fullmatch=True)
values = st.text(st.characters(exclude_characters="[]", codec="utf-8"), min_size=1)
given_options = st.lists(st.tuples(keys, values), max_size=3).map(tuple)
plain = st.tuples(st.just(Method), words.filter(lambda word: word not in STEPWISE), given_options)


def grown(plan: tuple[Any, ...]) -> Any:
    """The tree of a plan: a class and its arguments, plans among them."""
    kind, *parts = plan
    return kind(
        *(grown(part) if isinstance(part, tuple) and part and isinstance(part[0], type) else part for part in parts)
    )


CONTROLS_OF = {name.removesuffix("-as") for name in CONTROLS}
inner: st.SearchStrategy[Any] = st.recursive(
    plain,
    lambda of: (
        st.tuples(st.just(Wrapped), st.sampled_from([*STEPWISE]), of, given_options)
        | st.tuples(st.just(Wrapped), st.sampled_from([*CONTROLS]), of)
        | st.tuples(
            st.just(Allocated),
            plain.map(grown).filter(lambda one: one.name not in CONTROLS_OF),
            st.sampled_from([*ALLOCATED]),
            of,
        )
    ),
    max_leaves=4,
)
plans = st.recursive(inner, lambda of: st.tuples(st.just(Transplanted), of, inner), max_leaves=4)


def registered(tree: Tree) -> set[str]:
    """The names that a tree takes for registered ones."""
    if isinstance(tree, Method):
        return {tree.name}
    if isinstance(tree, Allocated):
        return registered(tree.of) | registered(tree.amounts)
    return registered(tree.of) if isinstance(tree, Wrapped) else registered(tree.mask) | registered(tree.update)


@given(plans)
def test_what_is_printed_is_read_back(plan: tuple[Any, ...]) -> None:
    tree = grown(plan)
    assert parse(str(tree), registered(tree)) == tree


def test_a_name_is_printed_as_it_was_read() -> None:
    names = ["gradual[a=1]-magnitude-as-x[b=2][c=+]+staged-y+kept", "x+y[a==]"]
    assert [str(parse(name, ())) for name in names] == names
    assert parse("a+b+kept", ()) == Transplanted(Transplanted(Method("a"), Method("b")), Method(KEPT))


RESULTS = record_files(Path(__file__).parent.parent / "results")


def recorded() -> dict[str, list[dict[str, Any]]]:
    """Every method's name in the records, with the hyper-parameters that it was run with."""
    found: dict[str, set[str]] = {}
    for path in RESULTS:
        for record in map(json.loads, path.read_text().splitlines()):
            found.setdefault(record["method"], set()).add(json.dumps(record["options"]))
    return {name: [json.loads(text) for text in texts] for name, texts in found.items()}


def within(old: Any, new: Any) -> bool:
    """Equal, but for fields that the method was given since."""
    if not isinstance(old, dict):
        return bool(old == new)
    return old.keys() <= new.keys() and all(within(value, new[key]) for key, value in old.items())


def test_every_recorded_name_is_the_method_that_was_run() -> None:
    names = recorded()
    assert len(names) > 150
    for name, versions in names.items():
        method = REGISTRY.pruner(name)
        assert method.name == name
        for version in versions:
            assert within(version, options(method)), name
    assert not within({"damping": 1.0}, options(WoodFisher()))
