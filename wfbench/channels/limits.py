"""What a network does not allow to be taken out, by the names of its layers: found in the graph, or by trying."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from wfbench.channels.coupled import Coupled, Slices, masked, shrunk
from wfbench.errors import WfbenchError
from wfbench.network import Network

AGREEMENT = 1e-4
"""Largest difference between logits of the masked and the shrunk network, as a share of the largest logit."""


REMEDY = (
    "give what comes after it layers of its own in place of parts of its output (chunk, split, GLU, PixelShuffle, "
    "einsum, padded shortcuts), or leave structured pruning out"
)


def removable(
    net: Network, groups: Sequence[Coupled], example: Shaped[Tensor, "1 *input"]
) -> tuple[list[Coupled], list[str]]:
    """The groups whose channels have a place in all tensors where the graph says so, and why the others stay whole.

    A group in a tensor some of whose entries belong to no group, as after a shortcut that pads with channels of zeros,
    is tried: the graph may have taken its channels for others. So are one in a tensor outside of layers, which may be a
    norm's, and heads of attention.

    Raises:
        WfbenchError: all would stay whole.
    """
    state = net.state()
    doubtful = _doubtful(net, groups, state)
    probe = probe_of(example)
    heads = _headless(net, [group for group in groups if group.heads], probe)
    problems = [
        heads.get(group.name)
        or _misplaced(net, group, state)
        or (_moved(net, group, probe) if group.name in doubtful else None)
        for group in groups
    ]
    found = [group for group, problem in zip(groups, problems, strict=True) if problem is None]
    whole = [problem for problem in problems if problem is not None]
    if whole and not found:
        raise WfbenchError(f"no channel can be taken out: {whole[0]}; {REMEDY}")
    return found, whole


def probe_of(example: Shaped[Tensor, "1 *input"]) -> Shaped[Tensor, "4 *input"]:
    """Random inputs of a kind: numbers about 0, or of tokens the first few."""
    generator = torch.Generator().manual_seed(0)
    if example.is_floating_point():
        return torch.randn((4, *example.shape[1:]), generator=generator).to(example)
    return torch.randint(1, 4, (4, *example.shape[1:]), generator=generator).to(example)


def _headless(net: Network, groups: Sequence[Coupled], x: Shaped[Tensor, "n *input"]) -> dict[str, str]:
    """Why heads stay, by the group's name: the network without the first of each is tried, of all groups at once."""
    gone = {group.name: [0] for group in groups}
    if not groups:
        return {}
    try:
        state = masked(net.state(), groups, gone)
        with torch.no_grad():
            if differ(net.logits(state, x), shrunk(net, state, x[:1], gone)(x)) <= AGREEMENT:
                return {}
    except Exception:  # the network may fail in any way; which heads are to blame is found below
        pass
    problems = {group.name: limit(net, [group], gone, x) for group in groups}
    return {name: problem for name, problem in problems.items() if problem is not None}


def _misplaced(net: Network, group: Coupled, state: Mapping[str, Tensor]) -> str | None:
    """Why the channels of a group cannot be told apart in what the graph says they are in; None where they can."""
    for part in (*group.charged, *group.deleted):
        layer = part.name.rpartition(".")[0]
        if part.name not in state:
            kind = type(net.module().get_submodule(layer)).__name__
            return f"the channels of {group.name} are read by {layer}, and a {kind} cannot lose inputs"
        if problem := _outside(part, group.size, state[part.name].shape[part.axis]):
            return f"the channels of {group.name} are cut up or padded after it: {layer or part.name} has {problem}"
    return None


def _doubtful(net: Network, groups: Sequence[Coupled], state: Mapping[str, Tensor]) -> set[str]:
    """Names of the groups in a tensor of which only some entries along the axis belong to any group, or in one outside
    of layers, such as a strange norm's."""
    known: dict[tuple[str, int], set[int]] = {}
    for group in groups:
        for part in (*group.charged, *group.deleted):
            known.setdefault((part.name, part.axis), set()).update(part.index.flatten().tolist())
    return {
        group.name
        for group in groups
        for part in (*group.charged, *group.deleted)
        if part.name in state
        and (
            len(known[part.name, part.axis]) < state[part.name].shape[part.axis]
            or part.name.rpartition(".")[0] not in net.layers
        )
    }


def _moved(net: Network, group: Coupled, x: Shaped[Tensor, "n *input"]) -> str | None:
    """Whether the network without the group's first channel is not the one with zeros in its place."""
    if limit(net, [group], {group.name: [0]}, x) is None:
        return None
    return (
        f"the channels of {group.name} are cut up, padded or mixed after it: without one the others change, or have "
        "other places in later layers"
    )


def _outside(part: Slices, size: int, there: int) -> str | None:
    kind = "inputs" if part.axis else "outputs"
    if len(part.index) != size:
        return f"{there} {kind} for {len(part.index)} of the {size} channels"
    if int(part.index.max()) >= there:
        return f"{there} {kind} where they would reach to {int(part.index.max()) + 1}"
    return None


def differ(wanted: Tensor, found: Tensor) -> float:
    """The largest difference between two networks' logits, as a share of the largest logit."""
    return float((wanted - found).abs().max() / wanted.abs().max().clamp(min=1e-12))


def limit(net: Network, groups: Sequence[Coupled], gone: Mapping[str, Sequence[int]], x: Tensor) -> str | None:
    """What stands against taking a channel out of the dense network, of the first such group; None where nothing does.

    Args:
        gone: the removed channels by the group's name; one of each is tried alone.
        x: a few samples.
    """
    for group in groups:
        if not gone.get(group.name):
            continue
        one = {group.name: [gone[group.name][0]]}
        state = masked(net.state(), groups, one)
        readers = " and ".join(name.rpartition(".")[0] for name in group.consumers)
        try:
            with torch.no_grad():
                wanted, found = net.logits(state, x), shrunk(net, state, x[:1], one)(x)
                difference = differ(wanted, found)
        except Exception as error:  # the network may fail in any way
            return (
                f"the network does not run without its removed channels, as one of {group.name} ({error}); write its "
                f"forward pass without fixed sizes, such as flatten(1) in place of view(-1, 64)"
                f"{_of_its_size(net, group)}, and call each layer once"
            )
        if not difference <= AGREEMENT:
            return (
                f"without a channel of {group.name} the smaller network computes something else (by {difference:.1e} "
                f"of the largest logit): on the way to {readers} its channels are reordered or mixed, as by permute, a "
                "channel shuffle or a norm across channels; leave that out, or structured pruning"
            )
    return None


def _of_its_size(net: Network, group: Coupled) -> str:
    """A buffer outside of layers with an entry a channel, which stays as it is, as part of an error."""
    own = {part.name for part in (*group.charged, *group.deleted)}
    for name, buffer in net.module().named_buffers():
        layer = net.module().get_submodule(name.rpartition(".")[0])
        if name not in own and group.size in buffer.shape and not isinstance(layer, nn.modules.batchnorm._BatchNorm):
            return f" (the buffer {name} has {group.size} entries too: make it a parameter, which is cut)"
    return ""
