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
        key: of what it needs besides.
        content: makes that, where it was not sent before.
    """

    request: Any
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

    def hello(self) -> bool:
        """It is there."""
        return True

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
        needs: of one worker: `CPU`, `GPU`, and `memory` in bytes.

    Raises:
        WfbenchError: Ray is not installed, the cluster cannot be reached, or has not what one worker needs.
    """

    def __init__(self, address: str | None, needs: Mapping[str, float]) -> None:
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
        self.slots = int(min(there.get(name, 0) // need for name, need in needs.items() if need))
        if not self.slots:
            listed = ", ".join(f"{name} {there.get(name, 0):g} of {need:g}" for name, need in needs.items())
            raise WfbenchError(f"the Ray cluster has not what one case needs: {listed}")
        options = {"num_cpus": needs["CPU"], "num_gpus": needs["GPU"], "memory": needs["memory"]}
        self._nanny = self.ray.remote(**options, max_restarts=0)(Nanny)

    def pool(self, make: Callable[[], Work], pack: Callable[[Any], Packed]) -> Pool:
        """As many slots as the cluster has room for.

        Args:
            make: the work of every worker, made where it is.
            pack: a request as it is sent.
        """
        self._make, self._pack = make, pack
        return Pool([Remote(self) for _ in range(self.slots)], self._wait)

    def _wait(self, slots: "list[Remote]", seconds: float) -> None:
        self.ray.wait([slot.answering for slot in slots], timeout=seconds)

    def nanny(self) -> Any:
        """A new actor."""
        return self._nanny.remote(self._make)

    def ask(self, nanny: Any, job: Job) -> Any:
        """The reference of what will come of a job."""
        packed = self._pack(job.request)
        if packed.key not in self._parcels:
            content = import_module("ray.cloudpickle").dumps(packed.content())
            self._parcels[packed.key] = hashlib.sha256(content).hexdigest(), self.ray.put(content)
        digest, parcel = self._parcels[packed.key]
        return nanny.run.remote(replace(job, item=None, request=packed.request), digest, [parcel])


class Remote:
    """A slot on some machine of the cluster, on another where that one is lost."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._ray = cluster, cluster.ray
        self._nanny: Any = None
        self._hello: Any
        self.answering: Any = None

    def is_ready(self) -> bool:
        """Whether there is an actor; where there is room for one, it is on its way."""
        if self._nanny is None:
            self._nanny = self._cluster.nanny()
            self._hello = self._nanny.hello.remote()
        if not self._ray.wait([self._hello], timeout=0)[0]:
            return False
        try:
            self._ray.get(self._hello)
        except self._ray.exceptions.RayError as error:
            self._nanny = None
            if "creation task" in str(error):  # its own code failed, as it will again
                raise WfbenchError(f"a worker cannot begin on the Ray cluster: {error}") from error
            return False
        return True

    def send(self, job: Job) -> None:
        self.answering = self._cluster.ask(self._nanny, job)

    def answer(self) -> list[Any]:
        if not self._ray.wait([self.answering], timeout=0)[0]:
            return []
        lost: type[Exception] = self._ray.exceptions.RayError
        try:
            found = self._ray.get(self.answering)
        except lost as error:
            found = error
        if isinstance(found, lost):
            self.end()
            raise Died("", "the machine or the Ray worker was lost")
        if isinstance(found, Exception):
            raise found
        return [found]

    def end(self) -> None:
        if self._nanny is not None:
            with suppress(Exception):  # the cluster may be gone
                self._ray.kill(self._nanny)
        self._nanny = None
