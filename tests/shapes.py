"""What checks the array shapes of the library while the tests run."""

from collections.abc import Callable
from typing import Any

from beartype import beartype


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """By beartype, but for functions inside of functions: those are made anew at every call, and say no shapes."""
    return function if "<locals>" in function.__qualname__ else beartype(function)
