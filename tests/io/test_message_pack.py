"""MessagePack: examples of its specification, and what is written is read."""

from __future__ import annotations

import struct

import pytest

from dials_diffuse.io.message_pack import Reader, header, text


@pytest.mark.parametrize(
    "value, expected",
    [
        (header("number", 7), b"\x07"),
        (header("number", 200), b"\xcf" + bytes(7) + b"\xc8"),
        (header("map", 3), b"\x83"),
        (header("map", 16), b"\xdf\0\0\0\x10"),
        (header("array", 2), b"\x92"),
        (header("bytes", 5), b"\xc6\0\0\0\x05"),
        (text("abc"), b"\xa3abc"),
        (text("x" * 32), b"\xdb\0\0\0\x20" + b"x" * 32),
    ],
)
def test_bytes_of_the_specification(value, expected):
    assert value == expected


@pytest.mark.parametrize("size", [0, 1, 15, 16, 31, 32, 127, 128, 70_000])
@pytest.mark.parametrize("kind", ["number", "text", "bytes", "map", "array"])
def test_headers_are_read_back(kind, size):
    assert Reader(header(kind, size)).header(kind) == size


@pytest.mark.parametrize("data", [b"\xa3abc", b"\xd9\x03abc", b"\xda\0\x03abc", text("abc")])
def test_all_lengths_of_codes_are_read(data):
    assert Reader(data).text() == "abc"


def test_values_follow_each_other():
    reader = Reader(text("a") + header("bytes", 2) + b"xy" + header("number", 300))
    assert reader.text() == "a" and reader.bytes_at() == (7, 9)
    assert reader.header("number") == 300
    with pytest.raises(struct.error):
        reader.text()


def test_other_kinds_and_data_that_end():
    with pytest.raises(ValueError, match="map expected"):
        Reader(text("a")).header("map")
    with pytest.raises(ValueError, match="end too early"):
        Reader(text("abc")[:-1]).text()
