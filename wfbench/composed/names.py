"""The grammar of method names: from a text to a tree, and from the tree to the method.

    name    = method { "+" update }               the mask of what stands before, the update of another
    update  = "kept" | method
    method  = NAME options
            | ( "gradual" | "staged" | "global" ) options "-" method
            | ( "magnitude" | "random" ) "-as-" method
            | NAME options "-as-" method               as much of every layer as the other takes
            | NAME options "-led-by-" method           the same of channels, or half-way from an even thinning
    options = { "[" OPTION "=" VALUE "]" }

Options belong to what they stand behind: `gradual[steps=4]-woodfisher[damping=1e-3]` is WoodFisher with that damping,
in four steps. A name that is registered is that method, whatever it looks like.
"""

import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, TypeAlias, Union, get_args, get_origin, get_type_hints

from wfbench.composed.allocated import Allocation
from wfbench.composed.gradual import Gradual
from wfbench.composed.matched import By, LayerMatched
from wfbench.composed.ranked import Global
from wfbench.composed.staged import Staged
from wfbench.composed.transplant import KEPT, Transplant
from wfbench.composed.tuned import Tuned
from wfbench.curvature.damping import CrossValidated, Relative
from wfbench.errors import WfbenchError, either, unknown
from wfbench.pruner import Pruner

STEPWISE: dict[str, type[Gradual] | type[Staged] | type[Global]] = {
    "gradual": Gradual,
    "staged": Staged,
    "global": Global,
}
CONTROLS: dict[str, By] = {f"{by}-as": by for by in get_args(By)}
WRAPPERS = (*STEPWISE, *CONTROLS)
ALLOCATED = {"as": False, "led-by": True}
BETWEEN = f"-({'|'.join(ALLOCATED)})-"

Options: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Method:
    """A method that is registered, with other hyper-parameters."""

    name: str
    options: Options = ()

    def __str__(self) -> str:
        return self.name + _written(self.options)


@dataclass(frozen=True)
class Wrapped:
    """A method inside another; the options are the outer one's."""

    wrapper: str
    of: "Part"
    options: Options = ()

    def __str__(self) -> str:
        return f"{self.wrapper}{_written(self.options)}-{self.of}"


@dataclass(frozen=True)
class Transplanted:
    """The mask of one with the update of another."""

    mask: "Tree"
    update: "Part"

    def __str__(self) -> str:
        return f"{self.mask}+{self.update}"


@dataclass(frozen=True)
class Allocated:
    """A method that takes as much from every layer as another one says."""

    of: Method
    by: str
    amounts: "Part"

    def __str__(self) -> str:
        return f"{self.of}-{self.by}-{self.amounts}"


Part: TypeAlias = Method | Wrapped | Allocated
Tree: TypeAlias = Part | Transplanted


def _written(options: Options) -> str:
    return "".join(f"[{option}={value}]" for option, value in options)


def parse(name: str, known: Container[str]) -> Tree:
    """The tree that is written `name`; `known` are the registered names.

    Raises:
        WfbenchError: not of the grammar; the message says where.
    """
    return Method(name) if name in known else _Parser(name, known).whole()


class _Parser:
    """Reads a text from left to right, a method a rule of the grammar."""

    def __init__(self, text: str, known: Container[str]) -> None:
        self.text, self.known, self.at = text, known, 0

    def whole(self) -> Tree:
        tree: Tree = self.method("a method")
        while self.skip("+"):
            tree = Transplanted(tree, self.method("an update"))
        if self.at < len(self.text):
            self.fail(f'unexpected "{self.text[self.at :]}"')
        return tree

    def method(self, what: str) -> Part:
        word = self.match(r"[^\[\]+]*")[0]
        if not word:
            self.fail(f"{what} is missing")
        for wrapper in WRAPPERS if word not in self.known else ():
            if word.startswith(f"{wrapper}-"):
                self.at -= len(word) - len(wrapper) - 1
                return Wrapped(wrapper, self.method("a method"))
        of, by, amounts = [*re.split(BETWEEN, word, maxsplit=1), "", ""][:3]
        if by and of in self.known and word not in self.known:
            self.at -= len(amounts)
            return Allocated(Method(of), by, self.method("a method"))
        options = self.options()
        if options and word in self.known and (between := self.match(BETWEEN)):
            return Allocated(Method(word, options), between[1], self.method("a method"))
        if word not in STEPWISE or word in self.known:
            return Method(word, options)
        if not self.skip("-"):
            self.fail(f'"-METHOD" is missing behind {word}{_written(options)}')
        return Wrapped(word, self.method("a method"), options)

    def options(self) -> Options:
        found = []
        while self.text.startswith("[", self.at):
            if "]" not in self.text[self.at :]:
                self.fail('no "]" closes the "["')
            option = self.match(r"\[([^\[\]=]+)=([^\[\]]+)\]")
            if not option:
                self.fail("write [option=value]")
            found.append((option[1], option[2]))
        return tuple(found)

    def match(self, pattern: str) -> Any:
        """The match that starts here, which is then read; None where there is none."""
        found = re.compile(pattern).match(self.text, self.at)
        self.at = found.end() if found else self.at
        return found

    def skip(self, mark: str) -> bool:
        """Whether the mark stands here; it is then read."""
        here = self.text.startswith(mark, self.at)
        self.at += len(mark) * here
        return here

    def fail(self, problem: str) -> NoReturn:
        raise WfbenchError(f'malformed method name "{self.text}": {problem} at character {self.at + 1}')


def build(tree: Tree, pruners: Mapping[str, Pruner[Any]]) -> Pruner[Any]:
    """The method that a tree describes, named as the tree is written.

    Raises:
        WfbenchError: a method or option that does not exist, a value that the option cannot have, or methods that do
            not go together.
    """
    if isinstance(tree, Transplanted):
        return Transplant(
            build(tree.mask, pruners), None if tree.update == Method(KEPT) else build(tree.update, pruners)
        )
    if isinstance(tree, Allocated):
        return Allocation(build(tree.of, pruners), build(tree.amounts, pruners), led=ALLOCATED[tree.by])
    if isinstance(tree, Wrapped):
        return _with_options(_wrapped(tree.wrapper, build(tree.of, pruners)), tree)
    if tree.name not in pruners:
        wrapped = (f"{wrapper}-{name}" for wrapper in WRAPPERS for name in pruners)
        raise unknown("method", tree.name, (*pruners, *wrapped))
    return _with_options(pruners[tree.name], tree)


def _wrapped(wrapper: str, of: Pruner[Any]) -> Pruner[Any]:
    return LayerMatched(of, CONTROLS[wrapper]) if wrapper in CONTROLS else STEPWISE[wrapper](of)


def _with_options(pruner: Pruner[Any], tree: Method | Wrapped) -> Pruner[Any]:
    """A copy with the tree's options, under the tree's name; the method itself where there are none."""
    if not tree.options:
        return pruner
    values = _values(pruner, tree)
    search = values.get("damping")
    if isinstance(search, CrossValidated):
        rest = tuple(one for one in tree.options if one[0] != "damping")
        return _renamed(Tuned(_with_options(pruner, replace(tree, options=rest)), search), tree)
    try:
        return _renamed(replace(pruner, **values), tree)  # type: ignore[type-var]
    except (WfbenchError, ValueError) as error:
        raise WfbenchError(f'"{tree}": {error}') from None


def _renamed(made: Pruner[Any], tree: Method | Wrapped) -> Pruner[Any]:
    object.__setattr__(made, "name", str(tree))  # instances are frozen; it is a class attribute of most methods
    return made


def _values(pruner: Pruner[Any], tree: Method | Wrapped) -> dict[str, Any]:
    """The values of the tree's options, each of its field's type."""
    forms, found = options_of(type(pruner)), dict[str, Any]()
    name = tree.name if isinstance(tree, Method) else tree.wrapper
    for option, text in tree.options:
        if option not in forms:
            others = (of for of, made in STEPWISE.items() if of != name and option in options_of(made))
            hint = "".join(f"; {of} has it: {of}[{option}={text}]-METHOD" for of in others)
            raise WfbenchError(
                f'{name} has no option "{option}" for "{tree}"; it has: {", ".join(forms) or "none"}{hint}'
            )
        if option in found:
            raise WfbenchError(f'"{tree}": {option} is given twice')
        try:
            found[option] = next(form.make(text) for form in forms[option] if form.fits(text))
        except StopIteration:
            allowed = either([word for form in forms[option] for word in form.words])
            raise WfbenchError(f'"{tree}": {option} of {name} must be {allowed}, not "{text}"') from None
        except WfbenchError as error:
            raise WfbenchError(f'"{tree}": {option} of {name}: {error}') from None
    return found


@dataclass(frozen=True)
class Form:
    """A way to write a value.

    Args:
        words: for people.
        pattern: of the texts.
        make: from such a text to the value.
    """

    words: tuple[str, ...]
    pattern: str
    make: Callable[[str], Any]

    def fits(self, text: str) -> bool:
        return re.fullmatch(self.pattern, text, re.ASCII) is not None


NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
FORMS: dict[type, Form] = {
    int: Form(("an integer",), r"[+-]?\d+", int),
    float: Form(("a number",), NUMBER, float),
    bool: Form(("true", "false"), "true|false", lambda text: text == "true"),
    str: Form(("a text",), ".*", str),
    NoneType: Form(("null",), "null", lambda text: None),
    Relative: Form(("relative:SHARE",), f"relative:{NUMBER}", lambda text: Relative(float(text.split(":")[1]))),
    CrossValidated: Form(("cross-validated",), "cross-validated", lambda text: CrossValidated()),
}


def options_of(kind: type) -> dict[str, tuple[Form, ...]]:
    """The fields of a method that a name can set, and how their values are written.

    Those are the fields of the types in `FORMS`, literals and unions of them, so none that holds another method. Every
    `damping` can be cross-validated.
    """
    if not is_dataclass(kind):
        return {}
    try:
        hints = get_type_hints(kind)
    except NameError as error:
        raise WfbenchError(
            f"the types of {kind.__name__}'s fields cannot be read: {error}; import what they name"
        ) from None
    hints = {field.name: hints[field.name] for field in fields(kind) if field.init and field.name != "name"}
    if "damping" in hints:
        hints["damping"] |= CrossValidated
    found = {option: _forms(hint) for option, hint in hints.items()}
    return {option: forms for option, forms in found.items() if forms}


def _forms(hint: Any) -> tuple[Form, ...]:
    """The ways to write a value of a type; none where a part of it cannot be written."""
    if get_origin(hint) is Literal:
        choices = {str(choice): choice for choice in get_args(hint)}
        return (Form(tuple(choices), "|".join(map(re.escape, choices)), choices.__getitem__),)
    if get_origin(hint) in (Union, UnionType):
        parts = [_forms(part) for part in get_args(hint)]
        return tuple(form for part in parts for form in part) if all(parts) else ()
    return (FORMS[hint],) if hint in FORMS else ()
