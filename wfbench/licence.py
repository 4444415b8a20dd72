"""What data a method or a recovery may see: nothing, inputs, or inputs and labels. It is part of its type."""

from abc import ABC
from collections.abc import Iterable
from typing import Any, ClassVar, Generic, Literal, TypeAlias, TypeVar, get_args, get_origin

from wfbench.data import Labeled, Unlabeled
from wfbench.errors import WfbenchError

Track: TypeAlias = Literal["labeled", "unlabeled", "data-free"]
TRACKS: dict[type, Track] = {type(None): "data-free", Unlabeled: "unlabeled", Labeled: "labeled"}
"""Licences, weakest first, in the words of the records."""

D = TypeVar("D", Labeled, Unlabeled, None, contravariant=True)


class Licensed(ABC, Generic[D]):
    """Something that is handed data. `D`, the licence, is what: `Labeled`, `Unlabeled` or `None`."""

    name: ClassVar[str]
    licence: ClassVar[type]

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        for base in getattr(cls, "__orig_bases__", ()):
            origin, arguments = get_origin(base), get_args(base)
            if isinstance(origin, type) and issubclass(origin, Licensed) and arguments:
                licence = type(None) if arguments[0] is None else arguments[0]
                if licence in TRACKS:
                    cls.licence = licence

    @property
    def track(self) -> Track:
        """The licence in the words of the records."""
        if not hasattr(self, "licence"):
            kind = next(base.__name__ for base in type(self).__mro__ if base.__module__.startswith("wfbench."))
            raise WfbenchError(
                f"{type(self).__name__} does not say what data it may see; derive from {kind}[Labeled], "
                f"{kind}[Unlabeled] or {kind}[None]"
            )
        return TRACKS[self.licence]


def strongest(licences: Iterable[type]) -> type:
    """The licence among these that allows most."""
    return max(licences, key=list(TRACKS).index)


def handed(licence: type, data: Labeled | Unlabeled | None) -> Any:
    """What a licence allows of data that one as strong or stronger was handed, in storage of its own.

    Raises:
        WfbenchError: the data are less than the licence asks for.
    """
    if licence is type(None):
        return None
    if data is None or (licence is Labeled and not isinstance(data, Labeled)):
        raise WfbenchError(f"{licence.__name__} data are needed, and there are {type(data).__name__} ones")
    if licence is Labeled and isinstance(data, Labeled):
        return Labeled(data.inputs.clone(), data.labels.clone(), data.copies)
    return Unlabeled(data.inputs.clone(), data.copies)
