"""A writer of checkpoints, V2, for tests: as TensorFlow writes them, or spoiled in one place.

Written from `tensorflow/core/lib/io/table_format.txt` and `tensor_bundle.proto`, apart from what reads them; the
goldens, which TensorFlow wrote, keep both honest.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from rnn_engine.formats.tensorflow import TAIL, read

Spoil = Callable[[bytes], bytes]
DTYPES = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "float16": 19}
MAGIC = 0xDB4775248B80FB57


def crc32c(data: bytes) -> int:
    """Castagnoli's CRC, bit by bit, masked as LevelDB masks it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def varint(number: int) -> bytes:
    out = b""
    number %= 2**64
    while number > 127:
        out, number = out + bytes([number % 128 + 128]), number // 128
    return out + bytes([number])


def message(*fields: tuple[int, int | bytes]) -> bytes:
    """A protocol buffer: whole numbers as varints, bytes with their length."""
    out = b""
    for number, value in fields:
        is_bytes = isinstance(value, bytes)
        out += varint(number << 3 | (2 if is_bytes else 0)) + (
            varint(len(value)) + value if is_bytes else varint(value)
        )
    return out


def entry(dtype: int, shape: Iterable[int], shard: int, offset: int, size: int, crc: int, *slices: bytes) -> bytes:
    """BundleEntryProto."""
    dims = message(*((2, message((1, dim))) for dim in shape))
    fields = message((1, dtype), (2, dims), (3, shard), (4, offset), (5, size))
    return fields + varint(6 << 3 | 5) + struct.pack("<I", crc) + message(*((7, one) for one in slices))


def header(shards: int = 1, endianness: int = 0, min_consumer: int = 0) -> bytes:
    """BundleHeaderProto."""
    return message((1, shards), (2, endianness), (3, message((1, 1), (2, min_consumer))))


def block(pairs: Iterable[tuple[bytes, bytes]], spoil: Spoil = bytes, kind: int = 0) -> bytes:
    """A block with its trailer; every fourth key is whole. `spoil` sees it before its checksum is made."""
    body, restarts, last = b"", [], b""
    for k, (key, value) in enumerate(pairs):
        shared = 0
        if k % 4:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        else:
            restarts.append(len(body))
        body += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    restarts = restarts or [0]
    body = spoil(body + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))) + bytes([kind])
    return body + struct.pack("<I", crc32c(body))


def table(entries: Mapping[bytes, bytes], *, spoil: Spoil = bytes, kind: int = 0, per_block: int = 5) -> bytes:
    """A whole table: blocks of a few entries, and the block that says where they are."""
    pairs, out, index = sorted(entries.items()), b"", []
    for k in range(0, len(pairs), per_block):
        part = pairs[k : k + per_block]
        written = block(part, spoil, kind)
        index.append((part[-1][0], varint(len(out)) + varint(len(written) - 5)))
        out += written
    return finished(out, index)


def finished(blocks: bytes, index: Iterable[tuple[bytes, bytes]], spoil: Spoil = bytes) -> bytes:
    """Blocks, and what stands behind them: a block of metadata, the index block, the footer."""
    meta = block([])
    index_block = block(index, spoil)
    handles = varint(len(blocks)) + varint(len(meta) - 5)
    handles += varint(len(blocks) + len(meta)) + varint(len(index_block) - 5)
    return blocks + meta + index_block + handles.ljust(40, b"\0") + struct.pack("<Q", MAGIC)


def bundle(variables: Mapping[str, np.ndarray], shards: int = 1) -> tuple[dict[bytes, bytes], list[bytes]]:
    """The index's entries, and the shards; variables go to them in turn."""
    data, entries = [b""] * shards, {b"": header(shards)}
    for k, (name, array) in enumerate(sorted(variables.items())):
        raw, shard = array.tobytes(), k % shards
        where = (shard, len(data[shard]), len(raw), crc32c(raw))
        entries[name.encode()] = entry(DTYPES[str(array.dtype)], array.shape, *where)
        data[shard] += raw
    return entries, data


def write(folder: Path, index: bytes, data: Iterable[bytes], name: str = "model.ckpt") -> dict[str, Path]:
    """The files, by name."""
    shards = list(data)
    files = {f"{name}.index": index}
    files |= {f"{name}.data-{k:05d}-of-{len(shards):05d}": part for k, part in enumerate(shards)}
    for file, content in files.items():
        (folder / file).write_bytes(content)
    return {file: folder / file for file in files}


def save(folder: Path, variables: Mapping[str, np.ndarray], shards: int = 1) -> dict[str, Path]:
    """A checkpoint of these variables."""
    entries, data = bundle(variables, shards)
    return write(folder, table(entries), data)


# -- variables of cells -----------------------------------------------------------------------------------------------


def contents(folder, shapes, module=None):
    """What is read of variables of these shapes."""
    rng = np.random.default_rng(3)
    variables = {name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()}
    return read(save(folder, variables), module)


def found(folder, shapes, module=None):
    """Names and kinds of the modules of variables of these shapes."""
    return {one.name: one.cell for one in contents(folder, shapes, module).modules}


def lstm(scope, inputs=3, units=2, kernel="kernel", bias="bias"):
    return {f"{scope}/{kernel}": (inputs + units, 4 * units), f"{scope}/{bias}": (4 * units,)}


def gru(scope, inputs=3, units=2, kernel="kernel", bias="bias"):
    rows = inputs + units
    return {
        f"{scope}/gates/{kernel}": (rows, 2 * units),
        f"{scope}/gates/{bias}": (2 * units,),
        f"{scope}/candidate/{kernel}": (rows, units),
        f"{scope}/candidate/{bias}": (units,),
    }


def keras(scope, gates, inputs=3, units=2, tail=TAIL, bias=(1,)):
    shapes = {"kernel": (inputs, gates * units), "recurrent_kernel": (units, gates * units)}
    shapes["bias"] = (*bias[:-1], bias[-1] * gates * units)
    return {f"{scope}/{name}{tail}": shape for name, shape in shapes.items()}
