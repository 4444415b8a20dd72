"""Where a method that takes long leaves its steps, so that a killed run goes on in the middle."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

_FOLDERS: list[Path] = []


@contextmanager
def steps_in(folder: Path) -> Iterator[None]:
    """Until it ends, steps are kept in this folder; without one they are not kept."""
    _FOLDERS.append(folder)
    try:
        yield
    finally:
        _FOLDERS.remove(folder)


class Steps:
    """The steps of one piece of work, known by a digest of everything that it depends on."""

    def __init__(self, key: str) -> None:
        self._folder = _FOLDERS[-1] / key if _FOLDERS else None

    def load(self, step: int) -> tuple[dict[str, Tensor], dict[str, float]] | None:
        """Tensors and figures of a step; None where it was not kept, or not whole."""
        if self._folder is None:
            return None
        try:
            with safe_open(self._folder / f"{step}.safetensors", "pt") as file:
                figures = json.loads((file.metadata() or {}).get("figures", "{}"))
                return {name: file.get_tensor(name) for name in file.keys()}, figures  # noqa: SIM118, it is no mapping
        except (OSError, SafetensorError, ValueError):
            return None

    def keep(self, step: int, tensors: Mapping[str, Tensor], figures: Mapping[str, float]) -> None:
        """Write a step in one piece."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{step}.safetensors"
        whole = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        part = path.with_suffix(".part")
        part.write_bytes(save(whole, {"figures": json.dumps(dict(figures))}))
        part.replace(path)
