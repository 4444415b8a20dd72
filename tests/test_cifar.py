"""CIFAR-10: where its pictures come from, what they become, and the networks whose weights are another's."""

import hashlib
import http.server
import io
import pickle
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torchvision.datasets import CIFAR10

from wfbench import Dataset, Network, WfbenchError, discover
from wfbench.tasks import checkpoints, cifar
from wfbench.tasks.models import PaddedShortcut, cifar_resnet
from wfbench.tasks.recipes import RECIPES
from wfbench.tasks.training import Recipe, train


def batch(first: int, n: int) -> bytes:
    """A pickle of `n` pictures in CIFAR-10's layout, whose first number is `first`."""
    data = (np.arange(n * 3072).reshape(n, 3072) + first).astype(np.uint8)
    return pickle.dumps({"data": data, "labels": [i % 10 for i in range(n)]})


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """CIFAR-10's archive in small, on a loopback server that torchvision is told of, and an empty cache."""
    files = {f"data_batch_{i}": batch(i, 1200) for i in range(1, 6)} | {"test_batch": batch(9, 30)}
    files["batches.meta"] = pickle.dumps({"label_names": list("abcdefghij")})
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    archive = tmp_path / "mirror" / "cifar-10-python.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as packed:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{CIFAR10.base_folder}/{name}")
            entry.size = len(content)
            packed.addfile(entry, io.BytesIO(content))
    monkeypatch.setattr(CIFAR10, "train_list", [[f"data_batch_{i}", md5[f"data_batch_{i}"]] for i in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5["batches.meta"]})
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    monkeypatch.setenv("WFBENCH_CACHE", str(tmp_path / "cache"))
    cifar.published.cache_clear()
    cifar.jpeg.cache_clear()
    yield archive
    cifar.published.cache_clear()
    cifar.jpeg.cache_clear()


@pytest.fixture
def server(small: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(small.parent))

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{found.server_port}/{small.name}")
        yield
        found.shutdown()


def test_fetch_downloads_through_torchvision_and_the_last_5000_validate(server: None, tmp_path: Path) -> None:
    assert cifar.fetch() == tmp_path / "cache" / "cifar-10-batches-py"
    splits = cifar.published()
    assert {name: tuple(x.shape) for name, (x, _) in splits.items()} == {
        "train": (1000, 3, 32, 32), "validation": (5000, 3, 32, 32), "test": (30, 3, 32, 32),
    }  # fmt: skip
    first = (np.arange(3072) + 1).astype(np.uint8).reshape(3, 32, 32)
    assert np.array_equal(splits["train"][0][0].numpy(), first)
    assert splits["test"][1].tolist() == [i % 10 for i in range(30)]


def test_a_filled_cache_is_enough_and_damage_and_absence_are_named(small: Path, tmp_path: Path) -> None:
    with pytest.raises(WfbenchError, match=r"could not be downloaded .* unpack cifar-10-python.tar.gz in .*cache"):
        cifar.fetch()
    with pytest.raises(WfbenchError, match=r"data_batch_1 is missing; run `wfbench fetch cifar10-resnet20`"):
        cifar.published()
    with tarfile.open(small) as packed:
        packed.extractall(tmp_path / "cache", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    folder = cifar.fetch()
    (folder / "data_batch_3").write_bytes(b"other")
    with pytest.raises(WfbenchError, match=r"data_batch_3 is damaged \(wrong MD5\); delete it"):
        cifar.published()


def parquet(path: Path, pictures: list[np.ndarray], labels: list[int]) -> str:
    """Write pictures as lossless PNG in the layout of public hubs; the SHA-256 of the file."""
    encoded = []
    for picture in pictures:
        held = io.BytesIO()
        Image.fromarray(picture).save(held, "PNG")
        encoded.append({"bytes": held.getvalue(), "path": None})
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"img": pa.array(encoded, kind), "label": labels}), path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_parquet_in_the_hubs_layout_is_read_from_the_cache_and_verified(
    small: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cifar, "VALIDATION", 2)
    pictures = list(np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), np.uint8))
    train_name, test_name = cifar.JPEG
    with pytest.raises(WfbenchError, match=r"train-0.* is missing; .*copy or link a folder that holds train-.*test-"):
        cifar.jpeg()
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    hashes = {
        train_name: parquet(folder / train_name, pictures[:6], [3, 1, 4, 1, 5, 9]),
        test_name: parquet(folder / test_name, pictures[6:], [2, 6, 5]),
    }
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "cifar10-jpeg").symlink_to(folder)
    with pytest.raises(WfbenchError, match=r"train-00000-of-00001.parquet is not the file .*wrong SHA-256"):
        cifar.jpeg()
    monkeypatch.setattr(cifar, "JPEG", hashes)
    splits = cifar.jpeg()
    assert {name: y.tolist() for name, (_, y) in splits.items()} == {
        "train": [3, 1, 4, 1], "validation": [5, 9], "test": [2, 6, 5],
    }  # fmt: skip
    for split, at in (("train", 0), ("validation", 4), ("test", 6)):
        assert np.array_equal(splits[split][0][1].permute(1, 2, 0).numpy(), pictures[at + 1])


def test_pictures_are_normalised_by_the_networks_own_mean_and_deviation() -> None:
    pixels = torch.tensor([0, 255, 51], dtype=torch.uint8)[:, None, None].expand(3, 2, 2)
    found = Dataset((pixels[None], torch.tensor([0])), "one", cifar.normalise).take([0]).inputs[0, :, 0, 0]
    torch.testing.assert_close(found, torch.tensor([-0.485 / 0.229, (1 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]))


@pytest.mark.parametrize(("blocks", "weights"), [(3, 268_336), (9, 848_944)])
def test_networks_have_the_size_they_should(blocks: int, weights: int) -> None:
    """Weights of convolutions and the head: 3·3·(3·16 + 2n·16² + 16·32 + (2n-1)·32² + 32·64 + (2n-1)·64²) + 640."""
    n = blocks
    assert 9 * (48 + 2 * n * 256 + 512 + (2 * n - 1) * 1024 + 2048 + (2 * n - 1) * 4096) + 640 == weights
    assert sum(weight.numel() for weight in Network(cifar_resnet(blocks)).weights.values()) == weights


def test_the_shortcut_strides_and_pads_with_zeros_on_both_sides() -> None:
    x = torch.arange(1.0, 33).reshape(1, 2, 4, 4)
    found = PaddedShortcut(2, 4)(x)
    assert found.tolist() == [[[[0, 0], [0, 0]], [[1, 3], [9, 11]], [[17, 19], [25, 27]], [[0, 0], [0, 0]]]]


def test_public_weights_fit_and_the_forward_pass_is_that_of_the_formula() -> None:
    """Against the network written out with functions and the names in the file."""
    (entry,) = checkpoints.registry()["cifar10-resnet20"]
    module = checkpoints.load(cifar.RESNET20, entry)
    state = module.state_dict()

    def conv_norm(x: torch.Tensor, prefix: str, at: int, stride: int = 1) -> torch.Tensor:
        x = functional.conv2d(x, state[f"{prefix}conv{at}.weight"], stride=stride, padding=1)
        values = [state[f"{prefix}bn{at}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(x, *values)

    inputs = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x = conv_norm(inputs, "", 1).relu()
    for stage in (1, 2, 3):
        for block in range(3):
            stride, prefix = 2 if stage > 1 and block == 0 else 1, f"layer{stage}.{block}."
            out = conv_norm(conv_norm(x, prefix, 1, stride).relu(), prefix, 2)
            if stride == 2:
                zeros = torch.zeros(out.shape[0], out.shape[1] // 4, *out.shape[2:])
                x = torch.cat([zeros, x[:, :, ::2, ::2], zeros], 1)
            x = (out + x).relu()
    logits = functional.linear(x.mean((2, 3)), state["linear.weight"], state["linear.bias"])
    with torch.no_grad():
        torch.testing.assert_close(module(inputs), logits)


def test_fine_tuning_starts_from_the_public_weights_of_the_same_network() -> None:
    registry = discover()
    for name in ("cifar10-jpeg-resnet20", "cifar10-jpeg-resnet56"):
        assert RECIPES[name][1].start == name.replace("-jpeg", "")
        assert (
            RECIPES[name][0]().state_dict().keys() == registry.task(RECIPES[name][1].start).dense().state_dict().keys()
        )
    assert registry.task("cifar10-resnet20").accuracies == ()  # not measured on the pictures they are for


def test_training_goes_on_after_a_break_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    data = Dataset((x, torch.arange(64) % 3))
    recipe = Recipe(epochs=4, lr=0.1, batch_size=16, shift=1, flip=True, channels_last=True)

    def network() -> nn.Module:
        torch.manual_seed(2)
        conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))

    whole = train(network(), data, recipe, 0, progress=False)
    resume = tmp_path / "kept" / "half.resume"

    class Stop(Exception):
        pass

    def stop(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        if next(calls) == 10:
            raise Stop
        return functional.linear(x, self.weight, self.bias)

    calls = iter(range(100))
    monkeypatch.setattr(nn.Linear, "forward", stop)
    with pytest.raises(Stop):
        train(network(), data, recipe, 0, progress=False, resume=resume)
    monkeypatch.undo()
    assert torch.load(resume, weights_only=True)["epochs"] == 2
    again = train(network(), data, recipe, 0, progress=False, resume=resume)
    for (name, one), other in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
