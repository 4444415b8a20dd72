"""Built-in tasks: fetching, verification, checkpoints, recipes."""

import gzip
import hashlib
import http.server
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.datasets import FashionMNIST

from tests.cases import blob_network, blobs
from wfbench import Task, WfbenchError
from wfbench.harness.plugins import discover
from wfbench.tasks import checkpoints, digits, fashion
from wfbench.tasks.models import digits_cnn, mlpnet, mobilenetv1, resnet20
from wfbench.tasks.recipes import RECIPES
from wfbench.tasks.training import Recipe, moved, train


def idx(shape: tuple[int, ...]) -> bytes:
    """A small file of the kind Fashion-MNIST comes in."""
    header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    return header + np.arange(np.prod(shape), dtype=np.uint8).tobytes()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, bytes]:
    """Fashion-MNIST's four files in small, their hashes registered, and an empty cache."""
    files = {name: idx((6, 4, 4) if "images" in name else (6,)) for name in fashion.CONTENTS}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(fashion, "CONTENTS", hashes)
    monkeypatch.setattr(fashion, "DEBIAN", tmp_path / "no-such-package")
    monkeypatch.setenv("WFBENCH_CACHE", str(tmp_path / "cache"))
    fashion.fashion.cache_clear()
    return files


@pytest.fixture
def server(small: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A loopback mirror of the small files, which torchvision is told to use."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    resources = []
    for name, content in small.items():
        packed = gzip.compress(content)
        (folder / f"{name}.gz").write_bytes(packed)
        resources.append((f"{name}.gz", hashlib.md5(packed).hexdigest()))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{found.server_port}/"
        monkeypatch.setattr(FashionMNIST, "mirrors", [address])
        monkeypatch.setattr(FashionMNIST, "resources", resources)
        yield address
        found.shutdown()


def test_fetch_downloads_through_torchvision(server: str, small: dict[str, bytes]) -> None:
    folder = fashion.fetch()
    assert {name: (folder / name).read_bytes() for name in small} == small


def test_fetch_takes_debians_copy(small: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    for name, content in small.items():
        (package / f"{name}.gz").write_bytes(gzip.compress(content, mtime=1))
    monkeypatch.setattr(fashion, "DEBIAN", package)
    monkeypatch.setattr(FashionMNIST, "mirrors", [])
    folder = fashion.fetch()
    assert {name: (folder / name).read_bytes() for name in small} == small


def test_a_filled_cache_folder_is_enough(small: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fashion.raw_folder()
    folder.mkdir(parents=True)
    for name, content in small.items():
        (folder / name).write_bytes(content)
    monkeypatch.setattr(FashionMNIST, "mirrors", [])
    assert fashion.fetch() == folder


def test_files_that_nobody_verified_are_not_read(small: dict[str, bytes], server: str) -> None:
    """Where an old torchvision left its own files, the new one reads them first."""
    processed = fashion.cache_folder() / "FashionMNIST" / "processed"
    processed.mkdir(parents=True)
    for name in ("training.pt", "test.pt"):
        torch.save((torch.full((9, 28, 28), 3, dtype=torch.uint8), torch.zeros(9)), processed / name)
    folder = fashion.fetch()
    assert {name: (folder / name).read_bytes() for name in small} == small
    images, labels = fashion._pair(fashion.verify(folder), "t10k")
    pixels = torch.arange(96, dtype=torch.float32).reshape(6, 1, 4, 4)
    torch.testing.assert_close(images, (pixels / 255 - 0.2860) / 0.3530)
    assert labels.numpy().astype("u1").tobytes() == small["t10k-labels-idx1-ubyte"][8:]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(
    make: Callable[[Path], None], small: dict[str, bytes]
) -> None:
    path = fashion.raw_folder() / next(iter(small))
    path.parent.mkdir(parents=True)
    make(path)
    with pytest.raises(WfbenchError, match=rf"{path.name} is not a regular file; move it away, and run `wfbench fetch"):
        fashion.verify(path.parent)
    entry = checkpoints.Checkpoint(path.name, "", 0, 0.9, {}, "")
    with pytest.raises(WfbenchError, match=rf"{path.name} is not a regular file; move it away, and reinstall"):
        checkpoints.load(digits_cnn, entry, path.parent)


def test_missing_data_say_what_to_run(small: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WfbenchError, match="run `wfbench fetch fashion-mlpnet` once"):
        fashion.fashion()
    monkeypatch.setattr(FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(WfbenchError, match=r"could not be downloaded .* or put its four decompressed idx files into"):
        fashion.fetch()


def test_damaged_data_are_named(small: dict[str, bytes]) -> None:
    folder = fashion.raw_folder()
    folder.mkdir(parents=True)
    for name, content in small.items():
        (folder / name).write_bytes(content)
    (folder / "t10k-labels-idx1-ubyte").write_bytes(b"other")
    with pytest.raises(WfbenchError, match=r"t10k-labels-idx1-ubyte is damaged \(wrong SHA-256\); delete it"):
        fashion.fetch()
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(WfbenchError, match="t10k-labels-idx1-ubyte is missing"):
        fashion.fashion()


def test_digits_are_split_once_and_for_all() -> None:
    splits = digits.digits()
    assert {name: len(x) for name, (x, _) in splits.items()} == digits.SIZES
    everything = torch.cat([x for x, _ in splits.values()])
    assert (everything.min(), everything.max()) == (0, 1)
    assert everything.shape == (1797, 1, 8, 8)


def test_shipped_checkpoints_match_their_recipes() -> None:
    registered = checkpoints.registry()
    assert {name: len(found) for name, found in registered.items()} == {
        "cifar10-resnet20": 1, "cifar10-resnet56": 1, "cifar10-jpeg-resnet20": 3, "cifar10-jpeg-resnet56": 1,
        "debian-minilm-l6": 1,
        "digits-cnn": 3, "fashion-mlpnet": 3, "fashion-mobilenetv1": 1, "fashion-resnet20": 1,
    }  # fmt: skip
    for name, (build, recipe) in RECIPES.items():
        found = registered[name]
        for entry in found:
            assert Recipe(**entry.recipe) == recipe
            checkpoints.load(build, entry)


@pytest.mark.parametrize(("build", "weights"), [(mlpnet, 32_360), (resnet20, 270_608), (mobilenetv1, 210_016)])
def test_networks_have_the_size_they_should(build: object, weights: int) -> None:
    from wfbench import Network

    assert sum(weight.numel() for weight in Network(build()).weights.values()) == weights


def test_tasks_without_a_checkpoint_validation_or_module_say_so() -> None:
    pair = blobs(9, 0)
    with pytest.raises(WfbenchError, match="has no dense checkpoint; train one"):
        Task("t", (), train=pair, test=pair).dense()
    with pytest.raises(WfbenchError, match="has checkpoints 0 to 0, not 1"):
        Task("t", blob_network(), train=pair, test=pair).dense(1)
    with pytest.raises(WfbenchError, match=r"gave a int, not a torch\.nn\.Module"):
        Task("t", lambda: 3, train=pair, test=pair).dense()
    with pytest.raises(WfbenchError, match="has no validation split"):
        _ = Task("t", blob_network(), train=pair, test=pair).validation_set


def test_training_learns_and_repeats() -> None:
    from wfbench import Dataset

    found = []
    for _ in range(2):
        torch.manual_seed(1)
        module = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        x, y = blobs(320, 0)
        data = Dataset((x.reshape(-1, 1, 2, 2), y))
        found.append(train(module, data, Recipe(epochs=20, lr=0.1, batch_size=32), 1, progress=False))
    x, y = blobs(200, 1)
    assert float((found[0](x).argmax(1) == y).float().mean()) > 0.8
    for one, other in zip(found[0].parameters(), found[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_augmentation_moves_pixels_and_keeps_their_kind() -> None:
    image = torch.zeros(200, 1, 7, 7)
    image[:, :, 3, 3] = 1
    found = moved(image, shift=2, flip=True)
    assert found.shape == image.shape
    assert torch.equal(found.sum((1, 2, 3)), torch.ones(200))
    places = {tuple(place) for place in found[:, 0].nonzero()[:, 1:].tolist()}
    assert places == {(row, column) for row in range(1, 6) for column in range(1, 6)}
    assert torch.equal(moved(image, shift=0, flip=False), image)


@pytest.mark.parametrize("listed", [False, True])
def test_a_task_can_be_scored_on_a_fixed_subset(listed: bool) -> None:
    x, y = blobs(203, 2)
    test = [(a, int(b)) for a, b in zip(x, y, strict=True)] if listed else (x, y)
    task = Task(
        "blobs", blob_network(), train=blobs(300, 0), test=test, transform=lambda one: 2 * one, accuracies=(0.5,)
    )
    small, again = task.scored_on(50), task.scored_on(50)
    assert small.name == "blobs[50]"
    assert small.test_set.fingerprint == again.test_set.fingerprint
    found = small.test_set.take(range(50))
    rows = {(*(2 * a).tolist(), int(b)) for a, b in zip(x, y, strict=True)}
    assert len({(*a.tolist(), int(b)) for a, b in zip(found.inputs, found.labels, strict=True)} & rows) == 50
    assert small.train_set.fingerprint == task.train_set.fingerprint
    assert small.accuracies == ()
    with pytest.raises(WfbenchError, match="at most 203"):
        task.scored_on(204)


def test_a_subset_is_a_task_of_the_registry() -> None:
    registry = discover()
    task = registry.task("digits-cnn[100]")
    assert (task.name, len(task.test_set), task.replicates) == ("digits-cnn[100]", 100, 3)
    assert registry.task("digits-cnn[100]") is task
    with pytest.raises(WfbenchError, match='unknown task "digit"'):
        registry.task("digit[100]")
