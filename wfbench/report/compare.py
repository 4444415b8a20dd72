"""Two result sets, paired by case: what changed, the significant first, and what was asked otherwise."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from wfbench.errors import WfbenchError
from wfbench.harness.record import IDENTITY, NUMERICS
from wfbench.report import stats
from wfbench.report.frames import load_results, scored

GROUP = ["task", "method", "recovery"]
OPTIONS = {"options": "method", "recovery_options": "recovery", "pattern_options": "pattern"}
"""Fields that hold options, and the field that names what they are options of."""


@dataclass(frozen=True)
class Comparison:
    """`changes` has a line a task, method and recovery: B minus A over paired cases, the significant first.

    Its interval leaves out zero if and only if the change is `significant`; none for fewer pairs than `needed`.
    `options` says which options of methods, recoveries and patterns differ, `warnings` what else the numbers hang on.
    """

    changes: pd.DataFrame
    pairs: int
    identical: int
    only_in_a: int
    only_in_b: int
    options: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def worse(self) -> pd.DataFrame:
        """The groups in which B is significantly below A."""
        return self.changes[self.changes["significant"] & (self.changes["difference"] < 0)]


def compare(a: Path, b: Path) -> Comparison:
    """Pair the cases of two result folders by their identity; a failed case scores 0.

    The cases of a group (draws, budgets, sparsities) are taken as pairs (`stats.differences`), Holm over the groups in
    which a case changed; those of one draw are not independent, so this is on the bold side.

    Raises:
        WfbenchError: a folder without records, or no case that both have.
    """
    first, second = _loaded(a), _loaded(b)
    both = first.merge(second, on=["suite", *IDENTITY], suffixes=("_a", "_b"), validate="one_to_one")
    if both.empty:
        raise WfbenchError(f"{a} and {b} have no case in common; compare runs of the same suite, tasks and budgets")
    scores = {side: both[f"accuracy_{side}"].fillna(0).to_numpy(dtype=float) for side in ("a", "b")}
    both["change"] = scores["b"] - scores["a"]
    groups = dict(iter(both.groupby(GROUP, sort=True)))
    changed = {names: group["change"].to_numpy(dtype=float) for names, group in groups.items() if group["change"].any()}
    found = dict(zip(changed, stats.differences(list(changed.values())), strict=True))
    changes = pd.DataFrame([_line(names, group, found.get(names)) for names, group in groups.items()])
    order = changes.assign(size=-changes["difference"].abs()).sort_values(
        ["significant", "size", *GROUP], ascending=[False, True, True, True, True], kind="stable"
    )
    return Comparison(
        changes.loc[order.index].reset_index(drop=True),
        len(both),
        int((both["change"] == 0).sum()),
        len(first) - len(both),
        len(second) - len(both),
        tuple(_options(both)),
        tuple(_warnings(both)),
    )


def _line(names: tuple[Any, ...], group: pd.DataFrame, found: stats.Difference | None) -> dict[str, Any]:
    """A group's line; None where no case changed, so that there is nothing to test."""
    return {
        **dict(zip(GROUP, names, strict=True)),
        "difference": found.interval.estimate if found else 0.0,
        "low": found.interval.low if found else 0.0,
        "high": found.interval.high if found else 0.0,
        "pairs": len(group),
        "changed": int((group["change"] != 0).sum()),
        "needed": found.needed if found else None,
        "holm_p": found.holm_p if found else 1.0,
        "significant": found.significant if found else False,
        "failed_a": int((group["status_a"] == "failed").sum()),
        "failed_b": int((group["status_b"] == "failed").sum()),
    }


def _loaded(folder: Path) -> pd.DataFrame:
    frame = scored(load_results(folder))
    if frame.empty:
        raise WfbenchError(f"no records (*.jsonl) in {folder}; give a results folder")
    return frame.reindex(columns=list(dict.fromkeys([*frame.columns, *OPTIONS])))


def _warnings(both: pd.DataFrame) -> list[str]:
    found = []
    for name in NUMERICS:
        seen = [
            sorted({str(where.get(name)) for where in both[f"environment_{side}"] if isinstance(where, dict)})
            for side in ("a", "b")
        ]
        if seen[0] != seen[1]:
            found.append(f"{name.replace('_', ' ')} differs: {', '.join(seen[0])} in A, {', '.join(seen[1])} in B")
    return found


def _options(both: pd.DataFrame) -> Iterator[str]:
    """A sentence for every option of a method, recovery or pattern that the paired records do not agree on."""
    for field, of in OPTIONS.items():
        for name, group in both.groupby(of, sort=True):
            sides = [[dict(_flat(said)) for said in group[f"{field}_{side}"]] for side in ("a", "b")]
            for option in sorted({option for side in sides for said in side for option in said}):
                pairs = [tuple(said.get(option, "not said") for said in pair) for pair in zip(*sides, strict=True)]
                if any(a != b for a, b in pairs):
                    seen = (", ".join(sorted(set(values))) for values in zip(*pairs, strict=True))
                    yield "{}: {} is {} in A, {} in B".format(name, option, *seen)


def _flat(said: Any, before: str = "") -> Iterator[tuple[str, str]]:
    """Options by their names, those of a component behind its name and a dot; nothing where none are recorded."""
    for name, value in said.items() if isinstance(said, Mapping) else ():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", json.dumps(value)
