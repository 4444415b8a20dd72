"""What a dense network must be before cases run with it: it can be copied, gives logits, and gives them again."""

import torch
from torch import Tensor, nn
from torch.nn.utils.weight_norm import WeightNorm

from wfbench.data import Dataset, Labeled
from wfbench.errors import WfbenchError, why
from wfbench.modules import copied, state_of

PART = 8
"""Samples on which the network is run twice."""
SAME = 1e-5
"""Largest difference between two runs, as a share of the largest logit; on graphics cards sums may be reordered."""


def own_copy(module: nn.Module) -> nn.Module:
    """A copy of the network.

    Raises:
        WfbenchError: it cannot be copied, or computes a weight from others by an old-style `weight_norm`.
    """
    kind = type(module).__name__
    _check_lists(module)
    for name, layer in module.named_modules():
        for hook in layer._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm):
                raise WfbenchError(
                    f"layer {name or 'of the network'} of {kind} cannot be copied: it has the old weight_norm, whose "
                    f"{hook.name} is no parameter; call torch.nn.utils.remove_weight_norm on it, the function stays"
                )
    try:
        return copied(module)
    except Exception as error:  # a stranger's network may raise anything
        raise WfbenchError(
            f"{kind} cannot be copied ({why(error)}); give `module` as a network that copy.deepcopy takes, without "
            "locks, files and computed tensors among its attributes"
        ) from error


def _check_lists(module: nn.Module) -> None:
    """Raises WfbenchError for layers in a plain list or dict, whose weights the network does not know as its own."""
    known = set(module.modules())
    for name, part in module.named_modules():
        for key, value in vars(part).items():
            inside = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
            for layer in inside if key[0] != "_" else ():
                if isinstance(layer, nn.Module) and layer not in known and any(True for _ in layer.parameters()):
                    where = f"{name}.{key}" if name else key
                    raise WfbenchError(
                        f"{where} of {type(module).__name__} is a plain {type(value).__name__} with a "
                        f"{type(layer).__name__} in it, whose weights the network does not know; make it a "
                        "torch.nn.ModuleList or ModuleDict"
                    )


def check_network(module: nn.Module, data: Dataset) -> torch.Size:
    """The shape of one sample's logits, classes first, of a network in eval mode, run twice on a few samples.

    Raises:
        WfbenchError: there are no samples, its output is no logits of classes, or another one when it is run again.
    """
    if not len(data):
        raise WfbenchError(f"{data.name} is empty; give at least one sample")
    samples = data.take(range(min(PART, len(data))))
    x = samples.inputs.to(next(module.parameters()).device)
    with torch.inference_mode():
        runs = [copied(module) for _ in range(2)]
        first, second = (one(x) for one in runs)
    kind = type(module).__name__
    before, after = (state_of(one) for one in (module, runs[0]))
    if not all(torch.allclose(before[name], after[name], rtol=0, atol=0, equal_nan=True) for name in before):
        raise WfbenchError(f"{kind} changes its own tensors when it is run in eval mode")
    labels = samples.labels if isinstance(samples, Labeled) else None
    if not isinstance(first, Tensor) or not _fits(first, x, labels):
        advice = _advice(first, x, labels)
        raise WfbenchError(f"{kind} gives {_shape(first)} for {len(x)} samples of {data.name}; {advice}")
    if not torch.isfinite(first).all() and all(torch.isfinite(one).all() for one in module.parameters()):
        raise WfbenchError(f"the logits of {kind} on {data.name} contain NaN or infinite values")
    difference = float((first.double() - second.double()).abs().max() / first.double().abs().max().clamp(min=1e-12))
    if difference > SAME:
        raise WfbenchError(
            f"{kind} in eval mode gives other logits when it is run again on {data.name} (by {difference:.1e} of the "
            "largest); leave out what is random, as by F.dropout(x, training=self.training)"
        )
    return first.shape[1:]


def _fits(logits: Tensor, x: Tensor, labels: Tensor | None) -> bool:
    """Whether they are logits [n, classes], or [n, classes, *places] for labels [n, *places]."""
    if logits.ndim < 2 or len(logits) != len(x) or logits.shape[1] < 2:
        return False
    return labels is None or labels.shape[1:] == logits.shape[2:]


def _shape(output: object) -> str:
    return f"an output of shape {list(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"


def _advice(output: object, x: Tensor, labels: Tensor | None) -> str:
    """What to do about an output that is no logits of classes."""
    if not isinstance(output, Tensor) or output.ndim == 0:
        return "return logits [n, classes]"
    if len(output) != len(x):
        return "keep the samples on the first axis, as by x.flatten(1)"
    if output[0].numel() == 1:
        return "for two classes return two, as torch.stack([torch.zeros_like(z), z], 1) of the one logit z [n]"
    if labels is not None and labels.shape == output.shape:
        return "give labels as class indices, one-hot ones as labels.argmax(1)"
    if labels is not None and labels.ndim > 1:
        wanted = f"logits [n, classes, *places] for labels of shape {list(labels.shape)}"
        last = labels.shape == output.shape[:-1]
        return f"return {wanted}{', as by .movedim(-1, 1)' if last else ''}"
    if output.ndim > 2 and output[0].numel() == output.shape[1]:
        return "return logits [n, classes], as by .flatten(1)"
    return "return logits [n, classes], one label a sample"
