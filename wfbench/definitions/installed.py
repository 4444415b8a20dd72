"""Which versions of packages are installed."""

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version


def version_of(distribution: str) -> str:
    """Of an installed distribution; empty where it is none."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def versions(packages: Iterable[str]) -> dict[str, str]:
    """By the name of the distribution that a package is of."""
    names = {name for package in packages for name in _distributions().get(package, ())}
    return {name: found for name in sorted(names) if (found := version_of(name))}


@cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()
