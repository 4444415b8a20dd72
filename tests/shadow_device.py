"""A pretend accelerator: device "shadow" keeps its tensors in the host's memory, and has the rules of CUDA.

Its tensors are plain ones under torch's spare device key: a DLPack capsule says in one number where memory is, and that
number is changed on the way. An operation that reaches the device is held against CUDA's rules, and then done by the
host's kernel on the same memory, so that what comes out is the host's bits. What this shows is where tensors live and
how often the host waits for the device, not what a GPU computes or how fast.
"""

import ctypes
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "shadow"
HOST, SPARE = 1, 12
"""What DLPack calls the host and an extension; torch reads the latter as its spare device."""
INDICES = {"index", "index_put", "_index_put_impl"}
"""Their indices may be on the host, which CUDA copies."""
NUMBERS = {"index_put", "_index_put_impl", "masked_fill", "fill", "index_fill"}
"""Besides pointwise operations, those that read a host's tensor without axes as a number."""
FREE = {"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "set_", "resize_"}
"""Operations that no kernel is launched for, besides views."""
FOLDERS = tuple(f"{Path(__file__).parent.parent / folder}/" for folder in ("wfbench", "baselines"))

_default = torch.Generator()
_generators: dict[int, torch.Generator] = {}
_counts: list["Counts"] = []
_kept: list[Any] = []
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


class Refused(RuntimeError):
    """What CUDA would not do."""


class Counts:
    """How often the host launched kernels, waited for the device, and copied between the two, by line of code."""

    def __init__(self) -> None:
        self.launches, self.waits, self.copies = Counter[str](), Counter[str](), Counter[str]()


@contextmanager
def counted() -> Iterator[Counts]:
    """What happens on the device inside."""
    _counts.append(Counts())
    try:
        yield _counts[-1]
    finally:
        _counts.pop()


def _line() -> str:
    """The line of wfbench or of a baseline that is being run."""
    frame: Any = sys._getframe(2)
    while frame is not None and not frame.f_code.co_filename.startswith(FOLDERS):
        frame = frame.f_back
    return "elsewhere" if frame is None else f"{Path(frame.f_code.co_filename).stem}:{frame.f_lineno}"


def _count(*kinds: str) -> None:
    if _counts:
        line = _line()
        for counts in _counts:
            for kind in kinds:
                getattr(counts, kind)[line] += 1


@dataclass(frozen=True)
class _Operation:
    """What an operation is, as its schema and tags say."""

    name: str
    takes_numbers: bool
    launches: bool
    waits: bool
    makes_views: bool
    written: tuple[bool, ...]
    names: tuple[str, ...]
    boxed: tuple[int, ...]
    draws: int | None


@cache
def _known(op: Any) -> _Operation:
    schema, tags = op._schema, set(op.tags)
    name = schema.name.removeprefix("aten::")
    plain = name.rstrip("_")
    aliases = [argument.alias_info for argument in schema.arguments]
    names = tuple(argument.name for argument in schema.arguments)
    views = any(found.alias_info for found in schema.returns)
    written = tuple(alias is not None and alias.is_write for alias in aliases)
    numbers = torch._C._should_allow_numbers_as_tensors(name)
    boxed = () if numbers else tuple(i for i, of in enumerate(schema.arguments) if str(of.type) == "Tensor")
    return _Operation(
        name=plain,
        takes_numbers=torch.Tag.pointwise in tags or plain in NUMBERS,
        launches=not (views and not any(written)) and name not in FREE,
        waits=torch.Tag.data_dependent_output in tags or (torch.Tag.dynamic_output_shape in tags and plain != "index"),
        makes_views=views,
        written=written,
        names=names,
        boxed=boxed,
        draws=names.index("generator") if "generator" in names else None,
    )


def _here(value: object) -> bool:
    return isinstance(value, Tensor) and value.device.type == NAME


def relabelled(tensor: Tensor, where: int) -> Tensor:
    """The same memory, shape and strides on another device."""
    capsule = torch._C._to_dlpack(tensor)
    ctypes.c_int32.from_address(_pointer(capsule, b"dltensor") + ctypes.sizeof(ctypes.c_void_p)).value = where
    return torch._C._from_dlpack(capsule)


def _check(op: Any, known: _Operation, place: int, value: Any) -> None:
    """Raise `Refused` for a host's tensor or generator where CUDA takes none."""
    if isinstance(value, (list, tuple)):
        for one in value:
            _check(op, known, place, one)
    elif isinstance(value, torch._C.Generator) and value._cdata not in _generators:
        raise Refused(f"{op}: a generator of the {value.device.type}, but the tensors are on {NAME}")
    elif isinstance(value, Tensor) and not _here(value):
        if value.ndim == 0 and known.takes_numbers and not known.written[place]:
            return
        if known.name in INDICES and known.names[place] == "indices":
            _count("copies")
            return
        raise Refused(f"{op}: {known.names[place]} is on {value.device}, and other tensors are on {NAME}")


def _run(op: Any, *args: Any, **kwargs: Any) -> Any:
    """The operation, checked, by the host's kernel."""
    known = _known(op)
    given: dict[int, tuple[Tensor, Tensor]] = {}
    lowered: dict[int, Tensor] = {}
    if known.name == "_copy_from":
        return _copied(*args)
    values = {**dict(enumerate(args)), **{known.names.index(name): value for name, value in kwargs.items()}}
    for place, value in values.items():
        _check(op, known, place, value)

    def down(value: Any) -> Any:
        if isinstance(value, torch.device):
            return torch.device("cpu")
        if isinstance(value, (list, tuple)):
            return [down(one) for one in value]
        if not _here(value):
            return value
        if id(value) in lowered:  # one tensor stays one: some kernels ask for that
            return lowered[id(value)]
        # what is empty may be a result that is still to grow, which borrowed memory cannot
        host = relabelled(value, HOST) if value.numel() else torch.empty_like(value, device="cpu")
        given[id(host)], lowered[id(value)] = (value, host), host
        return host

    def up(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)([up(one) for one in value])
        if not isinstance(value, Tensor):
            return value
        return given[id(value)][0] if id(value) in given else relabelled(value, SPARE)

    masks = known.name in INDICES and any(_is_mask(one) for one in args[1])
    if _counts and (known.launches or known.waits):
        _count(*["launches"] * known.launches, *["waits"] * (known.waits or masks))
    hosts = [down(value) for value in args]
    named = {name: down(value) for name, value in kwargs.items()}
    for place in known.boxed:
        if place < len(hosts) and isinstance(hosts[place], (bool, int, float)):
            hosts[place] = torch.tensor(hosts[place])  # a number that stands for a tensor
    if known.draws is not None:
        drawing = values.get(known.draws)
        named["generator"] = _default if drawing is None else drawing
        del hosts[known.draws :]
    # zeros of forward derivatives have no memory there, and need some here
    found = torch.zeros(hosts[0], **named) if known.name == "_efficientzerotensor" else op(*hosts, **named)
    for value, host in given.values():
        if (value.shape, value.stride()) != (host.shape, host.stride()):  # changed in place
            with torch.no_grad():
                value.data = relabelled(host, SPARE)
    with torch.inference_mode(torch.is_inference_mode_enabled() and not known.makes_views):
        return up(found)


def _is_mask(index: Any) -> bool:
    return _here(index) and index.dtype in (torch.bool, torch.uint8)


def _copied(source: Tensor, to: Tensor, non_blocking: bool = False) -> Tensor:
    """`to.copy_(source)`: within the device a launch, from it a wait too."""
    if _here(source) and _here(to):
        _count("launches")
    else:
        _count("copies", *["waits"] * (not _here(to)))
    host, target = (relabelled(one, HOST) if _here(one) and one.numel() else one for one in (source, to))
    if to.numel():
        target.copy_(host)
    return to


def _convolution(*args: Any) -> Tensor:
    return _run(torch.ops.aten.convolution.default, *args)


def _convolution_backward(g: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> Any:
    return _run(torch.ops.aten.convolution_backward.default, g, x, weight, [weight.shape[0]], *rest)


class Generator(torch._C.Generator):
    """The host's, which says that it is on the device it was asked for; operations are handed it as another object."""

    def __new__(cls, device: Any = "cpu") -> "Generator":
        made = super().__new__(cls)
        if torch.device(device).type == NAME:
            _generators[made._cdata] = made
        return made

    @property
    def device(self) -> torch.device:
        return torch.device(NAME if self._cdata in _generators else "cpu")


class _Module(_DummyBackendModule):
    """`torch.shadow`: its default generator, apart from the host's."""

    def manual_seed_all(self, seed: int) -> None:
        _default.manual_seed(seed)

    def manual_seed(self, seed: int) -> None:
        _default.manual_seed(seed)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def device(self, index: int) -> Any:
        return nullcontext()

    def get_device_name(self, device: Any = None) -> str:
        return "Shadow of the host"

    def get_rng_state(self, device: Any = None) -> Tensor:
        return _default.get_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        _default.set_state(state)


def _with_own_kernels() -> Iterator[Any]:
    """Operations for which the host has a kernel, and torch a decomposition for devices without one."""
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    for full in torch._C._dispatch_get_all_op_names():
        kinds = ("CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional")
        if full.startswith("aten::") and has(full, "CPU") and any(has(full, kind) for kind in kinds):
            name, _, overload = full.removeprefix("aten::").partition(".")
            if name != "set_":  # of storages, which are not relabelled
                yield getattr(getattr(torch.ops.aten, name), overload or "default")


def register() -> None:
    """Once a process and for good; only where there is no real accelerator, which it would stand in for."""
    if _kept:
        return
    if torch.accelerator.is_available():
        raise Refused(f"{torch.accelerator.current_accelerator()} is here; run the tests on it")
    _setup_privateuseone_for_python_backend(NAME, _Module())
    every, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    every.fallback(_run, "PrivateUse1")
    for op in _with_own_kernels():
        aten.impl(op, partial(_run, op), "PrivateUse1")
    aten.impl("convolution_overrideable", _convolution, "PrivateUse1")
    aten.impl("convolution_backward_overrideable", _convolution_backward, "PrivateUse1")
    _kept.extend((every, aten))


@contextmanager
def used() -> Iterator[None]:
    """Inside, torch's own Python code takes the device for one that it knows."""
    register()
    has = torch._C._has_storage
    # backward passes in this thread, so that they belong to the line that asks for them
    with pytest.MonkeyPatch.context() as patch, torch.autograd.set_multithreading_enabled(False):
        usual = torch.Generator
        for name in [name for name, module in sys.modules.items() if vars(module).get("Generator") is usual]:
            if name != "torch._C":  # some have it by name
                patch.setattr(sys.modules[name], "Generator", Generator)
        patch.setattr(torch.accelerator, "synchronize", lambda *device: None)
        # deepcopy copies storages, for which nothing allocates here; without one it clones
        patch.setattr(torch._C, "_has_storage", lambda tensor: not _here(tensor) and has(tensor))
        yield
