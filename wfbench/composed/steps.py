"""Where a method that takes long leaves its steps, so that a killed run goes on in the middle."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from wfbench.writing import Unwritable, whole

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
        self._key = key
        self._folder = _FOLDERS[-1] / key if _FOLDERS else None

    def load(self, step: int) -> tuple[dict[str, Tensor], dict[str, float]] | None:
        """Tensors and figures of a step; None where it was not kept, or is not what was kept, to the bit."""
        if self._folder is None:
            return None
        path = self._folder / f"{step}.safetensors"
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                said = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
        except (OSError, SafetensorError):
            return None
        figures = said.get("figures", "")
        return (tensors, json.loads(figures)) if said.get("digest") == self._digest(step, tensors, figures) else None

    def keep(self, step: int, tensors: Mapping[str, Tensor], figures: Mapping[str, float]) -> None:
        """Write a step in one piece, with a digest of it, of the work and of its number.

        Raises:
            Unwritable: it cannot be written.
        """
        if self._folder is None:
            return
        made = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        text = json.dumps(dict(figures))
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unwritable(f"{self._folder} cannot be made ({error.strerror}); make room, and start again") from error
        with whole(self._folder / f"{step}.safetensors") as part:
            part.write_bytes(save(made, {"figures": text, "digest": self._digest(step, made, text)}))

    def _digest(self, step: int, tensors: Mapping[str, Tensor], figures: str) -> str:
        digest = hashlib.sha256(repr((self._key, step, figures)).encode())
        for name, tensor in sorted(tensors.items()):
            digest.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()
