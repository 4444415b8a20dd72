"""Records to one self-contained HTML page: no network, opens from disk, computes its tables in the browser."""

import base64
import gzip
import json
import math
import zlib
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from wfbench.errors import WfbenchError
from wfbench.report import literature
from wfbench.report.frames import load_results, scored, setting, told_apart, with_perplexity
from wfbench.report.overview import provenance
from wfbench.report.rounding import fixed, significant
from wfbench.writing import check_folder, whole

CODED = (
    *("suite", "task", "method", "entry", "track", "setting", "pattern_kind", "draw_kind", "scope", "budget"),
    *("sparsity", "recovery", "status"),
)
PLAIN = ("seed", "replicate", "accuracy", "dense_accuracy", "reference", "loss", "magnitude_overlap", "seconds")
UNSHOWN = ("key",)
"""What no reader asks for; digests do not compress, and would be half of the page."""
SCRIPTS = ("data.js", "board.js", "charts.js", "tables.js", "main.js")
DRAWN = ("draw", "wrong_labels", "copies")
"""What says how samples were drawn."""
VIEW = ["task", "budget", "sparsity", "recovery", "pattern_kind", "draw_kind"]
"""What a suite's opening view holds fixed, so that its rows differ in method and draw alone."""
COMPOSED = r"[\[+]|-as-"
"""In the name of a method with an option, or of one method's mask under another's update: variants, not methods."""
DIGITS = 5
MARK = b'<script id="data" type="application/octet-stream">'


def write(results: Path) -> Path:
    """Write `report/index.html` under `results` from every record there, the same bytes from the same records.

    Raises:
        WfbenchError: there are no records.
    """
    frame = load_results(results)
    if frame.empty:
        raise WfbenchError(f"no records (*.jsonl) in {results}; run a suite first, or give --results")
    path = results / "report" / "index.html"
    check_folder(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        part.write_bytes(page(frame))
    return path


def stale(results: Path) -> str | None:
    """What is wrong with `report/index.html`, if it is not what the records give; compression may differ."""
    path = results / "report" / "index.html"
    if not path.exists():
        return f"{path} is missing"
    found, expected = (_unpacked(content) for content in (path.read_bytes(), page(load_results(results))))
    return None if found == expected else f"{path} is not what the records give"


def _unpacked(content: bytes) -> tuple[bytes, ...]:
    """The page around the data, and the data."""
    before, _, rest = content.partition(MARK)
    data, _, after = rest.partition(b"</script>")
    try:
        return before, gzip.decompress(base64.b64decode(data, validate=True)), after
    except (ValueError, OSError, EOFError, zlib.error):
        return (content,)


def page(frame: pd.DataFrame) -> bytes:
    """The page of these cases. Records are embedded compressed, as data: nothing in them is ever read as markup."""
    told = _told(with_perplexity(scored(frame)))
    content = {
        "count": len(told),
        "provenance": provenance(frame),
        "openings": openings(told),
        "columns": columns(told.drop(columns=[name for name in UNSHOWN if name in told])),
        "reported": {
            "figures": literature.figures().to_dict("records"),
            "source": f"{literature.SOURCE} at {literature.COMMIT[:12]}",
        },
    }
    packed = gzip.compress(json.dumps(content, allow_nan=False).encode(), 9, mtime=0)
    script = "".join(map(_file, SCRIPTS))
    text = _file("page.html").replace("/*STYLE*/", _file("style.css")).replace("/*SCRIPT*/", script)
    return text.replace("/*DATA*/", base64.b64encode(packed).decode()).encode()


def _file(name: str) -> str:
    return (resources.files("wfbench.report") / "page" / name).read_text(encoding="utf-8")


def _told(frame: pd.DataFrame) -> pd.DataFrame:
    """Cases with the words that the page filters by; what is usual has a name too, so that it can be chosen."""
    draws = [setting("unstructured", "weights", *how) for how in zip(*(frame[name] for name in DRAWN), strict=True)]
    what = zip(frame["pattern"], frame["of"], frame["measure"], strict=True)
    kinds = [setting(pattern, of, "random", 0.0, 1, measure) for pattern, of, measure in what]
    return frame.assign(
        entry=told_apart(frame),
        draw_kind=[one or "ordinary" for one in draws],
        pattern_kind=[one or "weights" for one in kinds],
    )


def openings(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The view that each suite opens on: one task, budget, sparsity and recovery, where most methods stand.

    Suites come by how many methods they have on how many tasks, variants of a method not counted: the first is what the
    page opens on. Between views of as many methods, one of ordinary draws is taken, then that with most draws, then
    where methods are furthest apart (standard deviation of their means).
    """
    found = []
    for suite, cases in frame.groupby("suite", sort=True):
        methods = cases[~cases["method"].str.contains(COMPOSED)]
        best: tuple[float, ...] = ()
        for view, part in cases.groupby(VIEW, sort=True):
            means = part.groupby("entry")["accuracy"].mean()
            ordinary = view[-1] == "ordinary"
            apart = float(fixed(means.fillna(0.0).std(ddof=0), DIGITS))
            rank = (len(means), ordinary, part["seed"].nunique(), apart)
            if rank > best:
                best, opening = rank, dict(zip(VIEW, map(_plain, view), strict=True))
        pairs = len(methods[["task", "method"]].drop_duplicates())
        found.append((pairs, {"suite": suite, **opening}))
    return [opening for _, opening in sorted(found, key=lambda one: -one[0])]


def columns(frame: pd.DataFrame) -> dict[str, Any]:
    """Every field of the records by column: distinct values with an index a row where they repeat, else a list."""
    found: dict[str, Any] = {}
    for name in [*CODED, *(name for name in frame.columns if name not in CODED)]:
        values = [_plain(value) for value in frame[name]] if name in frame else [None] * len(frame)
        if name in PLAIN:
            found[name] = values
        else:
            distinct = {value: place for place, value in enumerate(dict.fromkeys(values))}
            found[name] = {"of": list(distinct), "at": [distinct[value] for value in values]}
    for name in PLAIN:
        found.setdefault(name, [None] * len(frame))
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, (dict, list)):
        return json.dumps(_settled(value), sort_keys=True, ensure_ascii=False)
    if isinstance(value, str) or value is None:
        return value
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return float(fixed(value, DIGITS)) if math.isfinite(value) else None
    return value


def _settled(value: Any) -> Any:
    """A nested field with its numbers cut down to what they mean."""
    if isinstance(value, dict):
        return {name: _settled(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_settled(inner) for inner in value]
    return significant(value, DIGITS) if isinstance(value, float) and math.isfinite(value) else value
