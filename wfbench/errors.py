"""What can go wrong, by whose doing: the user's, the method's, or against the rules."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from math import inf
from unicodedata import category

LONGEST = 2000
"""Most characters of a reason."""
FEW = 12
"""Most names that an error lists where none is alike."""


class WfbenchError(Exception):
    """Something the user can mend; the message names it and says how."""


class NotFetched(WfbenchError):
    """Data or weights that are not where they are read from; a run says so before its first case."""


class BrokenRule(Exception):
    """A method or the harness broke a rule of the benchmark; the run stops being a result."""


class CaseFailed(Exception):
    """The case has no result; the message is the record's reason."""


def unknown(kind: str, name: str, known: Iterable[str]) -> WfbenchError:
    """The error for a name that is not among the known: names like it, else all where they are few."""
    names = list(known)
    if alike := get_close_matches(name.lower(), names):
        return WfbenchError(f'unknown {kind} "{name}"; did you mean {either(alike)}?')
    rest = f"there are: {', '.join(names)}" if len(names) <= FEW else "`wfbench list` shows what there is"
    return WfbenchError(f'unknown {kind} "{name}"; {rest}')


def why(error: BaseException) -> str:
    """What an error says, in one text: its kind unless it is ours, its message, and where it arose."""
    said = _text(error) if isinstance(error, WfbenchError) else f"{type(error).__name__}: {_text(error)}"
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    return re.sub(r" at 0x[0-9a-f]+", "", clean(said + notes))  # an address is another one in every run


def kind_and_text(error: BaseException) -> str:
    """`ValueError: not today`, clean."""
    return clean(f"{type(error).__name__}: {_text(error)}")


def clean(text: str) -> str:
    """A text that a terminal, a table and a record can hold: the start of a long one, nothing that does not print."""
    end = f"… ({len(text):,} characters)" if len(text) > LONGEST else ""
    shown = (one if one in "\n\t" or category(one)[0] != "C" else "\N{REPLACEMENT CHARACTER}" for one in text[:LONGEST])
    return "".join(shown) + end


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as failure:  # a stranger's error may fail in any way
        return f"(its text cannot be had: {type(failure).__name__})"


def either(words: Sequence[str]) -> str:
    """`a, b or c`."""
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]


def at_least(least: int, **options: int | float) -> None:
    """Raise WfbenchError for an option that is below `least` or not finite."""
    for name, value in options.items():
        if not least <= value < inf:
            raise WfbenchError(f"{name}={value} must be at least {least}{' and finite' * isinstance(value, float)}")
