"""Slots on the machines of a Ray cluster: in each an actor that has processes of its own, as a slot here has.

What a job needs goes into Ray's object store once, under the SHA-256 of its bytes, and is verified where it arrives.
"""

import hashlib
import os
import pickle
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from wfbench.errors import WfbenchError
from wfbench.execution.pool import Job, Pool, Processes
from wfbench.execution.worker import LOOK, Died


class Packed(NamedTuple):
    """A request as another machine is sent it.

    Args:
        needs: what Ray is asked for: `CPU`, `GPU`, and `memory` in bytes.
        key: of what it needs besides.
        content: makes that, where it was not sent before.
    """

    request: Any
    needs: Mapping[str, float]
    key: Hashable
    content: Callable[[], Any]


class Work(Protocol):
    """What a worker elsewhere does."""

    def __call__(self, request: Any) -> Any: ...

    def receive(self, content: Any) -> None:
        """Take what requests need."""


class Nanny:
    """The actor. It computes nothing itself, so that its processes may use any device.

    Args:
        make: the work.
    """

    def __init__(self, make: Callable[[], Work]) -> None:
        self._work = make()
        self._slot = Processes(self._work)
        self._has: set[str] = set()

    def hello(self) -> None:
        """It is there."""

    def run(self, job: Job, digest: str, parcel: list[Any]) -> Any:
        """What came of a job, an error too.

        Args:
            parcel: the reference of what the job needs, whose bytes have this SHA-256.
        """
        try:
            if digest not in self._has:
                content = import_module("ray").get(parcel[0])
                if hashlib.sha256(content).hexdigest() != digest:
                    raise WfbenchError(f"data of SHA-256 {digest[:12]}… arrived as other bytes; start again")
                self._work.receive(pickle.loads(content))
                self._has.add(digest)
                self._slot.end()  # processes that begin later have it
            self._slot.send(job)
            while not (found := self._slot.answer()):
                Processes.wait([self._slot], LOOK)
        except Exception as error:
            return error
        return found[0]


class Cluster:
    """A Ray cluster, as far as this run uses it.

    Args:
        address: of the cluster; None for what RAY_ADDRESS says, else one that is started on this machine.
        least: of one worker, `CPU` and `GPU`.

    Raises:
        WfbenchError: Ray is not installed, the cluster cannot be reached, or has not what one worker needs.
    """

    def __init__(self, address: str | None, least: Mapping[str, float]) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            self.ray: Any = import_module("ray")
        except ImportError as error:
            raise WfbenchError("--executor ray needs Ray: pip install 'wfbench[ray]'") from error
        if not self.ray.is_initialized():
            try:
                self.ray.init(address=address, log_to_driver=False, logging_level="error", include_dashboard=False)
            except (OSError, RuntimeError, ValueError) as error:
                raise WfbenchError(
                    f"the Ray cluster at {address or 'this machine'} cannot be reached: {error}"
                ) from error
        self._make: Callable[[], Work]
        self._pack: Callable[[Any], Packed]
        self._parcels: dict[Hashable, tuple[str, Any]] = {}
        there = self.ray.cluster_resources()
        self.slots = int(min(there.get(name, 0) // need for name, need in least.items() if need))
        if not self.slots:
            raise WfbenchError(f"the Ray cluster has not what one case needs: {_against(least, there)}")

    def pool(self, make: Callable[[], Work], pack: Callable[[Any], Packed]) -> Pool:
        """As many slots as the cluster has room for, by what every worker needs; memory decides when each begins.

        Args:
            make: the work of every worker, made where it is.
            pack: a request as it is sent.
        """
        self._make, self._pack = make, pack
        return Pool([Remote(self) for _ in range(self.slots)], self._wait)

    def _wait(self, slots: "list[Remote]", seconds: float) -> None:
        if all(slot.answering is not None for slot in slots):
            self.ray.wait([slot.answering for slot in slots], timeout=seconds)

    def packed(self, job: Job) -> Packed:
        """A job's request as it is sent.

        Raises:
            WfbenchError: no machine has what it needs.
        """
        packed = self._pack(job.request)
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        if not any(all(node.get(name, 0) >= need for name, need in packed.needs.items()) for node in nodes):
            nothing: dict[str, float] = {}
            largest = max(nodes, key=lambda node: float(node.get("memory", 0)), default=nothing)
            needs = _against(packed.needs, largest)
            raise WfbenchError(f"no machine of the Ray cluster has what a case needs: {needs}; try a lower --memory")
        return packed

    def nanny(self, needs: Mapping[str, float]) -> Any:
        """A new actor, which begins where and when there is room for it."""
        asked = {"num_cpus": needs["CPU"], "num_gpus": needs["GPU"], "memory": int(needs["memory"])}
        return self.ray.remote(**asked, max_restarts=0)(Nanny).remote(self._make)

    def ask(self, nanny: Any, job: Job, packed: Packed) -> Any:
        """The reference of what will come of a job."""
        if packed.key not in self._parcels:
            content = import_module("ray.cloudpickle").dumps(packed.content())
            self._parcels[packed.key] = hashlib.sha256(content).hexdigest(), self.ray.put(content)
        digest, parcel = self._parcels[packed.key]
        return nanny.run.remote(replace(job, item=None, request=packed.request), digest, [parcel])


def _against(needs: Mapping[str, float], there: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {there.get(name, 0):g} of {need:g}" for name, need in needs.items())


class Remote:
    """A slot on some machine of the cluster, on another where that one is lost.

    Its actor has what its jobs need; one that needs more, or anything else, has a new actor.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._ray = cluster, cluster.ray
        self._nanny: Any = None
        self._hello: Any
        self._has: Mapping[str, float] = {}
        self._job: Job
        self._refused: WfbenchError | None = None
        self.answering: Any = None

    def send(self, job: Job) -> None:
        """Begin a job; where its actor cannot begin yet, it waits for one that ends."""
        self._job, self._refused, self.answering = job, None, None
        try:
            packed = self._cluster.packed(job)
        except WfbenchError as error:
            self._refused = error
            return
        if self._nanny is None or any(self._has[name] < need for name, need in packed.needs.items()):
            self.rest()
            self._nanny, self._has = self._cluster.nanny(packed.needs), packed.needs
            self._hello = self._nanny.hello.remote()
        self.answering = self._cluster.ask(self._nanny, job, packed)

    def answer(self) -> list[Any]:
        if self._refused is not None:
            raise self._refused
        if not self._ray.wait([self.answering], timeout=0)[0]:
            return []
        found = self._got(self.answering)
        lost: type[Exception] = self._ray.exceptions.RayError
        if isinstance(found, lost):
            begun = self._got(self._hello) is None
            self.rest()
            if "creation task" in str(found):  # its own code failed, as it will again
                raise WfbenchError(f"a worker cannot begin on the Ray cluster: {found}")
            if begun:
                raise Died("", "the machine or the Ray worker was lost")
            self.send(self._job)  # the machine was lost before
            return []
        if isinstance(found, Exception):
            raise found
        return [found]

    def _got(self, reference: Any) -> Any:
        """What a reference is of, the error where the actor is gone."""
        lost: type[Exception] = self._ray.exceptions.RayError
        try:
            return self._ray.get(reference)
        except lost as error:
            return error

    def rest(self) -> None:
        """What the actor has is there for others."""
        if self._nanny is not None:
            with suppress(Exception):  # the cluster may be gone
                self._ray.kill(self._nanny)
        self._nanny = None

    def end(self) -> None:
        self.rest()
