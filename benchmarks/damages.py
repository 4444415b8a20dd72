"""What may happen to a file behind everybody's back; each takes its bytes and gives others."""

import random
import re
from collections.abc import Callable

Damage = Callable[[bytes, random.Random], bytes]


def flipped(text: bytes, chance: random.Random) -> bytes:
    """One bit is another."""
    found = bytearray(text)
    found[chance.randrange(len(text))] ^= 1 << chance.randrange(8)
    return bytes(found)


def cut(text: bytes, chance: random.Random) -> bytes:
    """The end is missing."""
    return text[: chance.randrange(len(text))]


def zeroed(text: bytes, chance: random.Random) -> bytes:
    """Some bytes are zero, as after a loss of power."""
    at = chance.randrange(len(text))
    return text[:at] + bytes(min(512, len(text) - at)) + text[at + 512 :]


def overwritten(text: bytes, chance: random.Random) -> bytes:
    """Some bytes are random ones."""
    at = chance.randrange(len(text))
    return text[:at] + chance.randbytes(50) + text[at + 50 :]


def glued(text: bytes, chance: random.Random) -> bytes:
    """The end of a line is missing."""
    at = chance.choice([found.start() for found in re.finditer(b"\n", text)])
    return text[:at] + text[at + 1 :]


def edited(text: bytes, chance: random.Random) -> bytes:
    """Somebody gave a record another accuracy."""
    at = chance.choice([found.end() for found in re.finditer(b'"accuracy": 0.', text)])
    return text[:at] + str((int(text[at : at + 1]) + 1) % 10).encode() + text[at + 1 :]


DAMAGES: tuple[Damage, ...] = (flipped, cut, zeroed, overwritten, glued, edited)
