from wfbench.definitions.reach import Definitions
from wfbench.definitions.source import Definition, Source, UnreadableError, source_of

__all__ = ["Definition", "Definitions", "Source", "UnreadableError", "source_of"]
