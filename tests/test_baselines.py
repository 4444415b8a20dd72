"""Each baseline against its definition."""

import torch

from tests.cases import blob_network, blobs, tiny_network
from tests.oracles import looped_rows
from wfbench import Labeled, Network, Target, WoodFisher
from wfbench.network import flatten
from wfbench.plugins import discover

REGISTRY = discover()


def mask_of(name: str, net: Network, data: object, sparsity: float) -> torch.Tensor:
    pruner = REGISTRY.pruner(name)
    pruned = pruner.fit(net, data).prune(Target(sparsity, scope=pruner.scope))
    return flatten({key: pruned.mask[key] for key in net.weights})


def test_magnitude_keeps_the_largest_weights() -> None:
    net = Network(blob_network())
    w = flatten(net.weights).abs()
    assert torch.equal(mask_of("magnitude", net, None, 0.5), w > w.sort().values[len(w) // 2 - 1])


def test_magnitude_layer_keeps_the_largest_of_each_layer() -> None:
    net = Network(blob_network())
    expected = []
    for weight in net.weights.values():
        flat = weight.flatten().abs()
        expected.append(flat > flat.sort().values[len(flat) // 2 - 1])
    assert torch.equal(mask_of("magnitude-layer", net, None, 0.5), torch.cat(expected))


def test_diagonal_fisher_is_half_the_squared_weight_times_the_mean_squared_gradient() -> None:
    module = tiny_network()
    net = Network(module)
    data = Labeled(
        torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.arange(7) % 2
    )
    p = module(data.inputs).softmax(1).detach()
    cotangents = (torch.nn.functional.one_hot(data.labels, 2) - p)[:, None]
    fisher = looped_rows(module, list(net.weights), data.inputs, cotangents).square().mean(0)
    found = flatten(REGISTRY.pruner("diag-fisher").scores(net, data))
    torch.testing.assert_close(found, 0.5 * flatten(net.weights).square() * fisher, rtol=1e-8, atol=1e-14)


def test_diagonal_fisher_is_woodfisher_with_blocks_of_one_and_little_damping() -> None:
    net, data = Network(blob_network().double()), Labeled(*blobs(40, 1))
    data = Labeled(data.inputs.double(), data.labels)
    woodfisher = WoodFisher(damping=1e-12, block_size=1).fit(net, data).prune(Target(0.5))
    expected = flatten({name: woodfisher.mask[name] for name in net.weights})
    assert torch.equal(mask_of("diag-fisher", net, data, 0.5), expected)


def test_random_masks_differ_from_call_to_call_and_not_from_seed_to_seed() -> None:
    net = Network(blob_network())
    torch.manual_seed(0)
    first, second = mask_of("random", net, None, 0.5), mask_of("random", net, None, 0.5)
    torch.manual_seed(0)
    assert torch.equal(first, mask_of("random", net, None, 0.5))
    assert not torch.equal(first, second)
