"""Reading bytes that nobody vouches for: never beyond the end, and never more than there can be."""

from __future__ import annotations

import numpy as np

__all__ = ["Cursor", "Damaged", "varint"]

_LONGEST = 9
"""Bytes of a number below 2^63."""


class Damaged(ValueError):
    """Bytes do not say what they should; the message says why."""


def varint(value: int) -> bytes:
    """A whole number >= 0 in 7 bits a byte, the lowest first; the high bit says that more follows.

    >>> varint(0), varint(127), varint(300)
    (b'\\x00', b'\\x7f', b'\\xac\\x02')
    """
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


class Cursor:
    """A place in bytes. What is asked for and not there raises `Damaged`.

    >>> cursor = Cursor(varint(300) + b"ab")
    >>> cursor.varint(most=1000, what="a length"), bytes(cursor.take(2)), cursor.left
    (300, b'ab', 0)
    """

    def __init__(self, content: bytes | memoryview) -> None:
        self.content = memoryview(content)
        self.position = 0

    @property
    def left(self) -> int:
        """How many bytes follow."""
        return len(self.content) - self.position

    def take(self, size: int) -> memoryview:
        """The next `size` bytes."""
        if size > self.left:
            raise Damaged(f"{size} bytes are expected where {self.left} are left")
        self.position += size
        return self.content[self.position - size : self.position]

    def byte(self) -> int:
        """The next byte as a number."""
        return self.take(1)[0]

    def varint(self, *, most: int, what: str, least: int = 0) -> int:
        """The next number, which must be within bounds and spelled as `varint` spells it."""
        value = 0
        for place in range(_LONGEST):
            byte = self.byte()
            value |= (byte & 127) << 7 * place
            if byte < 128:
                break
        else:
            raise Damaged(f"{what} has no end")
        if not least <= value <= most or (place and not byte):
            raise Damaged(f"{what} is {value}, and must be from {least} to {most}")
        return value

    def array(self, count: int, dtype: str) -> np.ndarray:
        """The next `count` numbers of a NumPy dtype such as "<u2"."""
        return np.frombuffer(self.take(count * np.dtype(dtype).itemsize), dtype)

    def finish(self) -> None:
        """Raise `Damaged` if something follows."""
        if self.left:
            raise Damaged(f"{self.left} bytes follow its end")
