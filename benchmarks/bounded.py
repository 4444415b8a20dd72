"""A method within a bound of memory against the same without: peak and result. `python -m benchmarks.bounded`.

By default WoodFisher on EfficientNet-Lite0 (4.65 million weights) from 256 photographs, within 1 GiB. Exit 1 where the
peak is above 1.3 times the bound, or weights differ by more than 1e-6 of the largest. Each runs in a process of its
own; the rows without a bound take 4.8 GB.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tabulate import tabulate

from wfbench import Network, Target, discover, draw
from wfbench.curvature.memory import bytes_of, limit_to
from wfbench.execution.allocator import give_freed_memory_back
from wfbench.licence import handed

UNBOUNDED = "1TiB"
ROOT = Path(__file__).parent.parent
MOST, OFF = 1.3, 1e-6


def status(name: str) -> int:
    """Bytes, of this process."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


def child(options: argparse.Namespace) -> None:
    """Prune; print the peak above what samples, network and one pass took, and leave the weights in a file."""
    limit_to(bytes_of(options.memory))
    registry = discover()
    task, method = registry.task(options.task), registry.pruner(options.method)
    net, data = Network(task.dense()), draw(task.train_set, options.samples, seed=0)
    with torch.no_grad():
        net.logits({}, data.inputs[:4])
    give_freed_memory_back()  # of reading the samples
    before, began = status("VmRSS"), (time.perf_counter(), time.process_time())
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    torch.manual_seed(0)
    pruned = method.fit(net, handed(method.licence, data)).prune(Target(0.5, scope=method.scope))
    seconds = [time.perf_counter() - began[0], time.process_time() - began[1]]
    save_file({name: tensor.contiguous() for name, tensor in pruned.state.items()}, options.out)
    print(json.dumps({"before": before, "peak": status("VmHWM") - before, "seconds": seconds}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="imagenet-efficientnet-lite0")
    parser.add_argument("--method", default="woodfisher")
    parser.add_argument("--samples", type=int, default=256, metavar="N")
    parser.add_argument("--memory", default="1GiB", metavar="BYTES")
    parser.add_argument("--out", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.out:
        child(options)
        return 0
    told, weights = [], []
    with tempfile.TemporaryDirectory() as folder:
        for memory in (options.memory, UNBOUNDED):
            out = str(Path(folder) / "weights.safetensors")
            asked = ["--task", options.task, "--method", options.method, "--samples", str(options.samples)]
            words = [sys.executable, "-m", "benchmarks.bounded", *asked, "--memory", memory, "--out", out]
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
            told.append(json.loads(done.stdout.splitlines()[-1]))
            weights.append(load_file(out))
    pairs = [(tensor.double(), weights[1][name].double()) for name, tensor in weights[0].items()]
    off = max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) for a, b in pairs)
    bound = bytes_of(options.memory)
    rows = [
        [memory, f"{one['before'] / 2**30:.2f}", f"{one['peak'] / 2**30:.2f}", *(f"{s:.0f}" for s in one["seconds"])]
        for memory, one in zip((options.memory, UNBOUNDED), told, strict=True)
    ]
    heads = ["bound", "GiB before", "GiB above it", "seconds", "processor"]
    print(tabulate(rows, headers=heads, disable_numparse=True))
    print(f"peak {told[0]['peak'] / bound:.2f} of the bound, weights off by {off:.1e} of the largest")
    return int(told[0]["peak"] > MOST * bound or off > OFF)


if __name__ == "__main__":
    sys.exit(main())
