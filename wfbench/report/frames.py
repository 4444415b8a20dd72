"""Records as a data frame, and what tells the settings of a suite apart."""

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wfbench.harness.record import NESTED, NUMBERS, UNUSUAL, USUAL
from wfbench.harness.store import latest, read, record_files
from wfbench.harness.suite import DENSE
from wfbench.writing import whole

GROUP = ["task", "budget", "method", "track", "scope", "pattern", "setting", "recovery", "sparsity"]

DRAW = ["task", "budget", "seed", "replicate", "draw", "wrong_labels", "copies", "recovery"]
"""What the dense network under a recovery hangs on."""

MEASURED = {
    "agreement": "agreement with the dense network",
    "agreement-undrawn": "agreement with the dense network on inputs not drawn",
    "agreement-drawn": "agreement with the dense network on the calibration inputs themselves",
}
"""What stands in tables where a score is no accuracy, by the record's `measure`."""


def load_results(results: Path | str = "results") -> pd.DataFrame:
    """Every case of every record file of a folder, one row each, the last record of a case counting.

    Columns are the records' fields (`options` and `environment` hold dictionaries).
    """
    files = record_files(Path(results))  # two suites may hold the same case: each keeps its own
    return _ordered([record for file in files for record in latest(read(file))])


def write_parquet(results: Path, path: Path) -> Path:
    """`load_results` as a Parquet file; dictionaries become JSON text."""
    frame = load_results(results)
    for name in NESTED:
        if name in frame:
            frame[name] = [
                json.dumps(found, sort_keys=True) if isinstance(found, (dict, list)) else None for found in frame[name]
            ]
    with whole(path) as part:
        frame.to_parquet(part, index=False)
    return path


def frame_of(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """The last record of every case of one suite as a row, in an order that does not depend on that of the records.

    `accuracy` is the score that tables compare; where that is agreement with the dense network, `setting` says so.
    """
    return scored(_ordered(latest(records)))


def scored(frame: pd.DataFrame) -> pd.DataFrame:
    """With agreement in the place of accuracy, for cases that have no labels to be scored by; `setting` says so."""
    if "agreement" in frame:
        frame = frame.assign(accuracy=frame["accuracy"].fillna(frame["agreement"]))
    return _beside_dense(frame)


def _beside_dense(frame: pd.DataFrame) -> pd.DataFrame:
    """Without the cases of the dense network, whose score under a case's recovery and samples is `reference` instead.

    Without a recovery that is the dense accuracy; NaN where it was not run.
    """
    if frame.empty or "reference" in frame:
        return frame if "reference" in frame else frame.assign(reference=np.nan)
    dense = (frame["method"] == DENSE) & (frame["sparsity"] == 0) & (frame["pattern"] == "unstructured")
    scores = frame[dense].groupby(DRAW, sort=True)["accuracy"].mean().rename("reference")
    found = (frame if dense.all() else frame[~dense]).join(scores, on=DRAW)
    without = found["recovery"] == "none"
    return found.assign(reference=found["reference"].mask(without, found["dense_accuracy"])).reset_index(drop=True)


def with_perplexity(frame: pd.DataFrame) -> pd.DataFrame:
    """With `perplexity` and `dense_perplexity`, exp of the mean losses, of cases whose samples have several places."""
    if "places" not in frame:
        return frame
    several = frame["places"].fillna(1) > 1
    with np.errstate(over="ignore"):  # a network may be so sure of what is wrong that exp of it is no float
        names = {f"{of}perplexity": np.exp(frame[f"{of}loss"].where(several)) for of in ("", "dense_")}
    return frame.assign(**names)


def _ordered(records: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(records)
    if frame.empty:
        return pd.DataFrame(columns=[*GROUP, "seed", "replicate", "accuracy", "status", "measure"])
    for name in NUMBERS:
        if name in frame:
            frame[name] = pd.to_numeric(frame[name])
    for name in ("accuracy", "dense_accuracy", "magnitude_overlap", "seconds"):
        frame[name] = frame.get(name, np.nan)
    for name, value in USUAL.items():
        frame[name] = frame[name].fillna(value) if name in frame else value
    frame["setting"] = [setting(*words) for words in zip(*(frame[name] for name in UNUSUAL), strict=True)]
    return frame.sort_values(["suite", *GROUP, "seed", "replicate"], kind="stable", ignore_index=True)


@cache
def setting(pattern: str, of: str, draw: str, wrong_labels: float, copies: int = 1, measure: str = "accuracy") -> str:
    """What is unusual about a case, in words: pattern, what its sparsity counts, how samples were drawn, the score."""
    words = [pattern] if pattern != "unstructured" else []
    words += [f"of {of}"] if of != "weights" else []
    words += [draw] if draw != "random" else []
    words += [f"{100 * wrong_labels:g} % wrong labels"] if wrong_labels else []
    words += [f"{copies:.0f} copies a sample"] if copies > 1 else []
    words += [MEASURED[measure]] if measure != "accuracy" else []
    return " ".join(words)


def told_apart(frame: pd.DataFrame) -> "pd.Series[str]":
    """Each row's method, followed by its scope where a suite has the method under several."""
    if frame.empty:
        return frame["method"]
    together = [name for name in ("suite", "pattern", "method") if name in frame]
    several = frame.groupby(together)["scope"].transform("nunique") > 1
    return frame["method"].where(~several, frame["method"] + " (" + frame["scope"].astype(str) + ")")
