"""The parts of MessagePack that reflection files consist of (https://msgpack.org, "spec.md").

A value begins with a code. The code of a short text, a small number, map or array holds its size; else
the size follows as a big-endian number. Maps and arrays are followed by their items.
"""

from __future__ import annotations

import struct

# Kind -> (code of size 0 and mask of the size, for short ones; code -> format of the size that follows)
_CODES: dict[str, tuple[int, int, dict[int, str]]] = {
    "number": (0x00, 0x7F, {0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"}),
    "text": (0xA0, 0x1F, {0xD9: ">B", 0xDA: ">H", 0xDB: ">I"}),
    "bytes": (0x00, 0x00, {0xC4: ">B", 0xC5: ">H", 0xC6: ">I"}),
    "map": (0x80, 0x0F, {0xDE: ">H", 0xDF: ">I"}),
    "array": (0x90, 0x0F, {0xDC: ">H", 0xDD: ">I"}),
}


def header(kind: str, size: int) -> bytes:
    """What a value begins with.

    Args:
        kind: "text", "bytes", "map" or "array"; for "number" the header is all of the value
        size: bytes of a text, items of a map or array, or the number
    """
    fixed, mask, formats = _CODES[kind]
    if mask and size <= mask:
        return bytes([fixed | size])
    code, longest = max(formats.items())
    return bytes([code]) + struct.pack(longest, size)


def text(value: str) -> bytes:
    """A text with its header"""
    data = value.encode()
    return header("text", len(data)) + data


class Reader:
    """Reads one value after the other.

    Args:
        data: bytes, or a file mapped into memory

    Raises:
        ValueError, struct.error: the data end, or hold something else than is asked for.
    """

    def __init__(self, data):
        self._data = data
        self._position = 0

    def header(self, kind: str) -> int:
        """The size of the next value, see header()"""
        fixed, mask, formats = _CODES[kind]
        code = self._unpack(">B")
        if code in formats:
            return self._unpack(formats[code])
        if mask and code & ~mask & 0xFF == fixed:
            return code & mask
        raise ValueError(f"{kind} expected, found code {code:#x}")

    def text(self) -> str:
        return bytes(self._data[slice(*self._span(self.header("text")))]).decode()

    def bytes_at(self) -> tuple[int, int]:
        """Where the next bytes begin and end"""
        return self._span(self.header("bytes"))

    def _span(self, size: int) -> tuple[int, int]:
        start = self._position
        if start + size > len(self._data):
            raise ValueError("the data end too early")
        self._position += size
        return start, self._position

    def _unpack(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self._data, self._position)
        self._position += struct.calcsize(form)
        return value
