"""TensorFlow's checkpoints, V2: an index of tensors by name, and shards that hold their bytes.

NAME.index is a table in LevelDB's format: blocks of sorted entries whose keys drop the beginning that they share with
the key before, a block that says where the others are, and a footer that says where that one is. The entry without a
name is the header, the others say where in NAME.data-0000k-of-0000n a tensor lies. Each block and each tensor has a
checksum, a masked CRC-32C. A partitioned variable has an entry that lists its slices, and one for each of them.
Sources: `tensorflow/core/lib/io/` (format.cc, block.cc, table_builder.cc), `core/protobuf/tensor_bundle.proto`,
`core/util/saved_tensor_slice_util.cc`, `core/lib/strings/ordered_code.cc`.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeAlias

import google_crc32c
import numpy as np

from rnn_engine.errors import listed, shown
from rnn_engine.formats.base import Files, FormatError, UnsupportedError
from rnn_engine.formats.protobuf import chunk, chunks, decoded, integer, parse, varint
from rnn_engine.types import Array

MAGIC = 0xDB4775248B80FB57
FOOTER = 48  # two handles, padding, the magic number
TRAILER = 5  # after each block: how it is compressed, and its checksum
MOST_ENTRIES = 1 << 16  # many times as many as a model of these kinds has; limits keep a small file from growing large
MOST_KEY = 1024  # bytes of one key
MOST_GROWTH = 32  # bytes of a block's keys, per byte of the block
MOST_VALUE = 1 << 16  # bytes that describe one tensor
MOST_AXES = 32

FLOATS: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    19: np.dtype("<f2"),
    14: np.dtype("<u2"),
}  # 14 is bfloat16
BFLOAT16 = 14
TYPES = {1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "string", 8: "complex64"}
TYPES |= {9: "int64", 10: "bool", 14: "bfloat16", 17: "uint16", 18: "complex128", 19: "half", 22: "uint32"}

#: Where a slice of a variable begins and how long it is, for each axis; (0, -1) for all of an axis.
Extents: TypeAlias = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """What the index says of one tensor."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    slices: tuple[Extents, ...]

    @property
    def is_float(self) -> bool:
        """Whether it may be a weight."""
        return self.dtype in FLOATS

    @property
    def type_name(self) -> str:
        """For messages."""
        return TYPES.get(self.dtype, f"type {self.dtype}")


class Checkpoint:
    """The tensors of one checkpoint. Opening it reads the index; `array` reads a tensor, and checks its checksum."""

    def __init__(self, files: Files) -> None:
        """Raises FormatError for files that are no checkpoint, UnsupportedError for one that is not read here."""
        self.files = files
        self.index = _only_index(files)
        self._shards: dict[int, Array] = {}
        try:
            entries = table(memoryview(files[self.index].read_bytes()))
            self.shards = _header(entries.pop(b"", None))
            self._slices = {key: _entry(value) for key, value in entries.items() if key[0] == 0}
            self.entries = {decoded(memoryview(key)): _entry(value) for key, value in entries.items() if key[0]}
            _check_apart([*self.entries.items(), *(("a slice", entry) for entry in self._slices.values())])
        except FormatError as error:
            raise FormatError(error.detail, "files", self.index) from None

    @property
    def name(self) -> str:
        """What the checkpoint is called: what its files' names have in common."""
        return self.index.removesuffix(".index")

    @cached_property
    def unread(self) -> list[str]:
        """Files that are not part of it."""
        return sorted(name for name in self.files if name != self.index and not name.startswith(f"{self.name}.data-"))

    def array(self, name: str) -> Array:
        """A float tensor by its full name, a view of its file where that can be; half and bfloat16 become float32."""
        entry = self.entries[name]
        array = self._assembled(name, entry) if entry.slices else self._stored(name, entry)
        if entry.dtype == BFLOAT16:
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array.astype(np.float32) if array.itemsize == 2 else array

    def text(self, name: str) -> memoryview:
        """The one element of a scalar string tensor: its length, the length's checksum, its bytes."""
        entry = self.entries[name]
        file, data = self._shard(name, entry.shard)
        data = data[entry.offset : entry.offset + entry.size]
        size, at = varint(data.data, 0)
        told, content = data[at : at + 4], data[at + 4 :]
        if size != len(content):
            raise FormatError(f"{shown(name)} claims {size} bytes where there are {len(content)}", "files", file)
        crc = google_crc32c.value(size.to_bytes(4 if size < 1 << 32 else 8, "little"))
        crc = google_crc32c.extend(crc, told.tobytes())
        if masked(google_crc32c.extend(crc, content)) != entry.crc:
            raise self._damaged(name, file)
        return content.data

    def _damaged(self, name: str, file: str) -> FormatError:
        return FormatError(
            f"the checksum of {shown(name)} does not fit its bytes in {file}: the file is damaged, or belongs to "
            "another checkpoint; copy it again",
            "files",
            file,
        )

    def _bytes(self, name: str, entry: Entry) -> Array:
        file, data = self._shard(name, entry.shard)
        data = data[entry.offset : entry.offset + entry.size]
        if checksum(data) != entry.crc:
            raise self._damaged(name, file)
        return data

    def _stored(self, name: str, entry: Entry) -> Array:
        kind = FLOATS[entry.dtype]
        claimed = math.prod(entry.shape) * kind.itemsize
        if claimed != entry.size:
            raise FormatError(
                f"{shown(name)} of shape {list(entry.shape)} and {entry.type_name} takes {claimed} bytes, but the "
                f"index gives it {entry.size}",
                "files",
                self.index,
            )
        if not claimed:
            return np.zeros([min(size, 1) for size in entry.shape], kind)  # an axis of 0 lets others claim anything
        data = self._bytes(name, entry)
        return np.require(np.frombuffer(data, kind), requirements="A").reshape(entry.shape)

    def _assembled(self, name: str, entry: Entry) -> Array:
        """A partitioned variable, put together out of its slices."""
        parts = [self._slices.get(slice_key(name, extents)) for extents in entry.slices]
        regions = [_region(extents, entry.shape) for extents in entry.slices]
        sizes = [math.prod(end - begin for begin, end in region) for region in regions]
        if len(set(regions)) != len(regions) or sum(sizes) != math.prod(entry.shape):
            raise FormatError(
                f"the {len(regions)} slices of {shown(name)} do not make up its shape {list(entry.shape)}",
                "files",
                self.index,
            )
        pieces = []
        for part, region in zip(parts, regions, strict=True):
            shape = tuple(end - begin for begin, end in region)
            if part is None or part.dtype != entry.dtype or part.shape != shape or part.slices:
                raise FormatError(f"a slice of {shown(name)} is missing from the index", "files", self.index)
            pieces.append(self._stored(name, part))
        whole, there = np.empty(entry.shape, FLOATS[entry.dtype]), np.zeros(entry.shape, bool)
        for piece, region in zip(pieces, regions, strict=True):
            where = tuple(slice(begin, end) for begin, end in region)
            whole[where], there[where] = piece, True
        if not there.all():
            raise FormatError(f"the slices of {shown(name)} overlap", "files", self.index)
        return whole

    def _shard(self, name: str, number: int) -> tuple[str, Array]:
        """A data file's name, and its bytes, mapped rather than read."""
        file = f"{self.name}.data-{number:05d}-of-{self.shards:05d}"
        if file not in self.files:
            there = listed(sorted(one for one in self.files if ".data-" in one)[:5]) or "there is none"
            raise FormatError(
                f"{file} is missing, which holds {shown(name)}: give it with {self.index} (data files: {there})",
                "files",
                file,
            )
        if number not in self._shards:
            with self.files[file].open("rb") as opened:
                size = opened.seek(0, 2)
                data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
            self._check_whole(file, number, size)
            self._shards[number] = np.frombuffer(data, np.uint8)
        return file, self._shards[number]

    def _check_whole(self, file: str, number: int, size: int) -> None:
        for name, entry in (*self.entries.items(), *(("a slice", entry) for entry in self._slices.values())):
            if entry.shard == number and entry.offset + entry.size > size:
                raise FormatError(
                    f"{shown(name)} ends at byte {entry.offset + entry.size} of {file}, which has {size}: the file is "
                    "cut, or belongs to another checkpoint",
                    "files",
                    file,
                )


def _only_index(files: Files) -> str:
    found = sorted(name for name in files if name.endswith(".index"))
    if len(found) != 1:
        got = listed(found[:5]) if found else f"only {listed(sorted(files)[:5])}"
        raise FormatError(f"a checkpoint has one file that ends in .index; got {got}", "files")
    return found[0]


# -- the table --------------------------------------------------------------------------------------------------------


def table(data: memoryview) -> dict[bytes, memoryview]:
    """All entries of a table, every block checked against its checksum. Raises FormatError."""
    if len(data) < FOOTER or int.from_bytes(data[-8:], "little") != MAGIC:
        raise FormatError(
            f"not the index of a checkpoint: its last 8 bytes are not {MAGIC:#x}, so it is cut or another file", "files"
        )
    footer = data[-FOOTER:-8]
    *_, at = _handle(footer, 0)  # of a block of metadata, which TensorFlow leaves empty
    offset, size, _ = _handle(footer, at)
    entries: dict[bytes, memoryview] = {}
    end, last = 0, None
    for _, handle in _pairs(_block(data, offset, size)):
        offset, size, _ = _handle(handle, 0)
        if offset < end:
            raise FormatError(
                f"the index's block at {offset} begins before the one ahead of it ends, at {end}", "files"
            )
        end = offset + size + TRAILER
        for key, value in _pairs(_block(data, offset, size)):
            if last is not None and key <= last:
                raise FormatError(f"the index's keys are not in order at {shown(key)}", "files")
            entries[key], last = value, key
        if len(entries) > MOST_ENTRIES:
            raise FormatError(f"the index has more than {MOST_ENTRIES} entries", "files")
    return entries


def _handle(data: memoryview, at: int) -> tuple[int, int, int]:
    """Where a block begins, its size, and the position behind both."""
    offset, at = varint(data, at)
    size, at = varint(data, at)
    return offset, size, at


def _block(data: memoryview, offset: int, size: int) -> memoryview:
    if offset + size + TRAILER > len(data) - FOOTER:
        raise FormatError(f"a block of the index ends at {offset + size}, outside of the file", "files")
    stored = int.from_bytes(data[offset + size + 1 : offset + size + TRAILER], "little")
    if checksum(np.frombuffer(data[offset : offset + size + 1], np.uint8)) != stored:
        raise FormatError(
            f"the checksum of the index's block at {offset} does not fit its bytes: the file is damaged, copy it again",
            "files",
        )
    if data[offset + size]:
        raise FormatError(
            f"the index is compressed (type {data[offset + size]}), expected none: TensorFlow writes it uncompressed",
            "files",
        )
    return data[offset : offset + size]


def _pairs(block: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """A block's keys and values. At its end stand the places where a key is whole, and how many they are."""
    restarts = int.from_bytes(block[-4:], "little")
    if len(block) < 4 or restarts > len(block) // 4 - 1:
        raise FormatError(f"a block of {len(block)} bytes claims {restarts} restart points", "files")
    body = block[: len(block) - 4 * (restarts + 1)]
    key, at, left = b"", 0, MOST_GROWTH * len(block)
    while at < len(body):
        shared, at = varint(body, at)
        fresh, at = varint(body, at)
        size, at = varint(body, at)
        left -= shared + fresh
        if shared > len(key) or fresh + size > len(body) - at:
            raise FormatError("an entry of the index shares or claims more bytes than there are", "files")
        if shared + fresh > MOST_KEY or left < 0:
            raise FormatError(f"the names in the index are too long: expected at most {MOST_KEY} bytes", "files")
        key = key[:shared] + bytes(body[at : at + fresh])
        at += fresh
        yield key, body[at : at + size]
        at += size


def checksum(data: Array) -> int:
    """The masked CRC-32C of bytes."""
    return masked(google_crc32c.value(data))


def masked(crc: int) -> int:
    """A checksum as it is stored: rotated and shifted, so that a checksum of checksums is no trivial one."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFF_FFFF


# -- the messages in it -----------------------------------------------------------------------------------------------


def _header(value: memoryview | None) -> int:
    """BundleHeaderProto -> how many shards there are."""
    if value is None:
        raise FormatError("the index has no header, the entry without a name", "files")
    header = parse(value)
    if integer(header, 2):
        raise UnsupportedError(
            "the checkpoint was written on a big-endian machine: restore it and save it on a little-endian one", "files"
        )
    if integer(parse(chunk(header, 3)), 2) > 1:
        raise UnsupportedError("the checkpoint is of a newer version than TensorFlow 2's: expected version 1", "files")
    shards = integer(header, 1)
    if not 1 <= shards <= 99_999:
        raise FormatError(f"the index's header claims {shards} shards", "files")
    return shards


def _entry(value: memoryview) -> Entry:
    """BundleEntryProto."""
    if len(value) > MOST_VALUE:
        raise FormatError(f"an entry of the index takes {len(value)} bytes, expected at most {MOST_VALUE}", "files")
    message = parse(value)
    shape = tuple(integer(parse(dim), 1) for dim in chunks(parse(chunk(message, 2)), 2))
    numbers = [integer(message, field) for field in (3, 4, 5)]
    if min([0, *shape, *numbers]) < 0 or len(shape) > MOST_AXES:
        raise FormatError(
            f"an entry of the index has shape {shown(shape)} and shard, offset and size {numbers}: expected no "
            f"negative ones, and at most {MOST_AXES} axes",
            "files",
        )
    crc = integer(message, 6) & 0xFFFF_FFFF
    slices = tuple(_extents(one) for one in chunks(message, 7))
    return Entry(integer(message, 1), shape, numbers[0], numbers[1], numbers[2], crc, slices)


def _extents(value: memoryview) -> Extents:
    """TensorSliceProto."""
    extents = [parse(extent) for extent in chunks(parse(value), 1)]
    return tuple((integer(extent, 1), integer(extent, 2, -1)) for extent in extents)


def _region(extents: Extents, shape: tuple[int, ...]) -> Extents:
    """Where a slice begins and ends in a tensor of this shape, axis by axis."""
    if len(extents) != len(shape):
        raise FormatError(f"a slice has {len(extents)} axes, its variable {len(shape)}", "files")
    region = []
    for (begin, length), size in zip(extents, shape, strict=True):
        end = size if length == -1 else begin + length
        if not 0 <= begin < end <= size:
            raise FormatError(f"a slice goes from {begin} to {end} on an axis of {size}", "files")
        region.append((begin, end))
    return tuple(region)


def _check_apart(named: list[tuple[str, Entry]]) -> None:
    """Tensors that share bytes would let a small file claim any amount of work."""
    stored = sorted((e.shard, e.offset, e.size, name) for name, e in named if e.size)
    for (shard, offset, size, name), (other_shard, other_offset, _, other) in pairwise(stored):
        if shard == other_shard and offset + size > other_offset:
            raise FormatError(f"{shown(name)} and {shown(other)} share bytes of shard {shard}", "files")


# -- the keys of slices -----------------------------------------------------------------------------------------------


def slice_key(name: str, extents: Extents) -> bytes:
    """The key of the entry of one slice: numbers and names written such that their bytes sort as they do."""
    escaped = name.encode().replace(b"\x00", b"\x00\xff")  # UTF-8 has no 0xff, which would be escaped too
    key = _unsigned(0) + escaped + b"\x00\x01" + _unsigned(len(extents))
    return key + b"".join(_signed(number) for extent in extents for number in extent)


def _unsigned(number: int) -> bytes:
    digits = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return bytes([len(digits)]) + digits


def _signed(number: int) -> bytes:
    """As many one bits as there are bytes, a zero, and the number; each of its bits flipped where it is negative."""
    magnitude = number if number >= 0 else ~number
    size = magnitude.bit_length() // 7 + 1  # 7 bits a byte, one of all of them for the sign
    marks = ((1 << size) - 1) << 7 * size
    return ((number & ((1 << 8 * size) - 1)) ^ marks).to_bytes(size, "big")
