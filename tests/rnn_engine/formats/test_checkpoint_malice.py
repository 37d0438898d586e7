"""Checkpoints that nobody should have written: claims that are checked before they are believed, and mutations."""

import struct
import tracemalloc

import numpy as np
import pytest

from rnn_engine.errors import EngineError
from rnn_engine.formats.base import FormatError, UnsupportedError
from rnn_engine.formats.tensorflow.checkpoint import Checkpoint, slice_key
from tests.rnn_engine.formats import checkpoint_writer as writer
from tests.rnn_engine.formats.test_checkpoint import VARIABLES, golden, one, read_all


def refused(folder, value, data=b"\0" * 48):
    """The message about a checkpoint of one entry."""
    with pytest.raises(FormatError) as error:
        Checkpoint(one(folder, value, data)).array("w")
    return error.value.detail


# -- malice -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "shard", "offset", "size", "says"),
    [
        ([3], 0, 2**63 - 4, 12, "ends at byte 9223372036854775816"),
        ([3], 0, 40, 12, "ends at byte 52 of model"),
        ([3], 0, -8, 12, "expected no negative"),
        ([3], 0, 0, -12, "expected no negative"),
        ([-3], 0, 0, 12, "expected no negative"),
        ([3], -1, 0, 12, "expected no negative"),
        ([4], 0, 0, 12, "takes 16 bytes, but the index gives it 12"),
        ([2**62, 2**62, 16], 0, 0, 12, "but the index gives it 12"),
        ([2**40], 0, 0, 2**42, "ends at byte 4398046511104"),
        ([1] * 33, 0, 0, 4, "at most 32 axes"),
        ([3], 1, 0, 12, "data-00001-of-00001 is missing"),
        ([3], 2**31, 0, 12, "is missing"),
    ],
)
def test_an_entry_that_claims_what_is_not_there_is_refused(tmp_path, shape, shard, offset, size, says):
    assert says in refused(tmp_path, writer.entry(1, shape, shard, offset, size, 0))


def test_an_empty_shape_cannot_hide_an_absurd_one(tmp_path):
    files = one(tmp_path, writer.entry(1, [2**62, 0, 2**62], 0, 0, 0, 0))
    assert Checkpoint(files).array("w").size == 0


def test_tensors_that_share_bytes_are_refused(tmp_path):
    entries = {b"": writer.header()} | {f"w{k}".encode(): writer.entry(1, [3], 0, 4 * k, 12, 0) for k in range(2)}
    with pytest.raises(FormatError, match="'w0' and 'w1' share bytes of shard 0"):
        Checkpoint(writer.write(tmp_path, writer.table(entries), [b"\0" * 16]))


@pytest.mark.parametrize(
    ("header", "error", "says"),
    [
        (writer.header(endianness=1), UnsupportedError, "big-endian"),
        (writer.header(min_consumer=2), UnsupportedError, "newer version"),
        (writer.header(shards=0), FormatError, "claims 0 shards"),
        (writer.header(shards=-1), FormatError, "claims -1 shards"),
        (writer.header(shards=2**40), FormatError, "claims 1099511627776 shards"),
        (b"\xff", FormatError, "in the middle of a number"),
        (writer.message((1, b"?")), FormatError, "no whole number"),
    ],
)
def test_a_header_that_is_not_understood_is_refused(tmp_path, header, error, says):
    with pytest.raises(error, match=says):
        Checkpoint(writer.write(tmp_path, writer.table({b"": header}), []))


def test_an_index_without_its_header_is_refused(tmp_path):
    with pytest.raises(FormatError, match="no header"):
        Checkpoint(writer.write(tmp_path, writer.table({b"w": writer.entry(1, [1], 0, 0, 4, 0)}), [b"\0" * 4]))


def test_a_compressed_block_is_refused_with_a_sentence(tmp_path):
    with pytest.raises(FormatError, match=r"compressed \(type 1\), expected none"):
        Checkpoint(writer.write(tmp_path, writer.table({b"": writer.header()}, kind=1), []))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"\x05\x01\x00k", "shares or claims more bytes"),  # of a key that is not there
        (b"\x00\x7f\x00k", "shares or claims more bytes"),  # a key beyond the block
        (b"\x00\x01\x7fk", "shares or claims more bytes"),  # a value beyond it
        (b"\x00\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01k", "shares or claims more bytes"),
        (b"\x00\x01\x00b\x00\x01\x00a", "not in order at b'a'"),
        (b"\x00\x01\x00a\x00\x01\x00a", "not in order at b'a'"),
        (b"\xff" * 12, "in the middle of a number"),
    ],
)
def test_entries_that_are_none_are_refused(tmp_path, body, says):
    broken = writer.block([], lambda _: body + struct.pack("<II", 0, 1))
    index = writer.finished(broken, [(b"z", writer.varint(0) + writer.varint(len(broken) - 5))])
    with pytest.raises(FormatError, match=says):
        Checkpoint(writer.write(tmp_path, index, []))


@pytest.mark.parametrize(
    ("offset", "size", "says"),
    [(0, 2**63, "outside of the file"), (2**63, 8, "outside of the file"), (0, 10**6, "outside"), (3, 5, "checksum")],
)
def test_a_block_that_is_not_there_is_refused(tmp_path, offset, size, says):
    blocks = writer.block([(b"", writer.header())])
    index = writer.finished(blocks, [(b"z", writer.varint(offset) + writer.varint(size))])
    with pytest.raises(FormatError, match=says):
        Checkpoint(writer.write(tmp_path, index, []))


def test_blocks_are_read_once(tmp_path):
    blocks = writer.block([(b"", writer.header())])
    handle = writer.varint(0) + writer.varint(len(blocks) - 5)
    with pytest.raises(FormatError, match="begins before the one ahead of it ends"):
        Checkpoint(writer.write(tmp_path, writer.finished(blocks, [(b"a", handle), (b"b", handle)]), []))


@pytest.mark.parametrize("restarts", [8, 2**31, 2**32 - 1])
def test_restart_points_that_are_not_there_are_refused(tmp_path, restarts):
    spoiled = writer.table({b"": writer.header()}, spoil=lambda body: body[:-4] + struct.pack("<I", restarts))
    with pytest.raises(FormatError, match=f"claims {restarts} restart points"):
        Checkpoint(writer.write(tmp_path, spoiled, []))


def test_long_names_cannot_be_made_of_a_few_bytes(tmp_path):
    whole = b"\x00" + writer.varint(1000) + b"\x00" + b"k" * 1000
    body = whole + b"".join(writer.varint(1000) + b"\x03\x00" + f"{k:03d}".encode() for k in range(1000))
    bomb = writer.block([], lambda _: body + struct.pack("<II", 0, 1))
    index = writer.finished(bomb, [(b"z", writer.varint(0) + writer.varint(len(bomb) - 5))])
    files = writer.write(tmp_path, index, [])
    with pytest.raises(FormatError, match="names in the index are too long"):
        Checkpoint(files)
    longer = writer.table({b"": writer.header(), b"k" * 1025: writer.entry(1, [1], 0, 0, 4, 0)})
    with pytest.raises(FormatError, match="too long"):
        Checkpoint(writer.write(tmp_path, longer, []))


def test_a_name_that_is_no_text_is_refused(tmp_path):
    with pytest.raises(FormatError, match="not UTF-8"):
        Checkpoint(one(tmp_path, writer.entry(1, [1], 0, 0, 4, 0), name=b"\xff\xfe"))


def test_an_entry_of_absurd_length_is_refused(tmp_path):
    with pytest.raises(FormatError, match="takes 70000 bytes"):
        Checkpoint(one(tmp_path, writer.message(*[(9, 0)] * 35000)))


# -- slices -----------------------------------------------------------------------------------------------------------


def sliced(folder, shape, extents, stored=None):
    """A checkpoint of one partitioned variable; each slice is filled with its number."""
    described = [writer.message(*((1, writer.message((1, b), (2, n))) for b, n in one)) for one in extents]
    entries, data = {b"": writer.header(), b"w": writer.entry(1, shape, 0, 0, 0, 0, *described)}, b""
    for number, one_ in enumerate(dict.fromkeys(extents if stored is None else stored)):
        raw = np.full([n for _, n in one_], number, "float32").tobytes()
        where = (0, len(data), len(raw), writer.crc32c(raw))
        entries[slice_key("w", one_)] = writer.entry(1, [n for _, n in one_], *where)
        data += raw
    return writer.write(folder, writer.table(entries), [data])


def test_slices_along_two_axes_are_put_together(tmp_path):
    quarters = [((row, 1), (column, 2)) for row in (0, 1) for column in (0, 2)]
    got = Checkpoint(sliced(tmp_path, [2, 4], quarters)).array("w")
    assert got.tolist() == [[0, 0, 1, 1], [2, 2, 3, 3]]


@pytest.mark.parametrize(
    ("shape", "extents", "stored", "says"),
    [
        ([4], [((0, 2),), ((3, 1),)], None, "do not make up its shape"),
        ([4], [((0, 2),), ((1, 2),)], None, "overlap"),
        ([4], [((0, 2),), ((0, 2),)], None, "do not make up its shape"),
        ([4], [((0, 2),), ((2, 2),)], [((0, 2),)], "a slice of 'w' is missing"),
        ([4], [((0, 2),), ((2, 3),)], None, "from 2 to 5 on an axis of 4"),
        ([4], [((0, 2),), ((-2, 2),)], None, "from -2 to 0"),
        ([4], [((0, 2), (0, 1))], None, "has 2 axes, its variable 1"),
        ([2**40], [((0, 2**40),)], [], "a slice of 'w' is missing"),
        ([2**60, 2**60], [((0, 2), (0, 2))], [], "do not make up its shape"),
    ],
)
def test_slices_that_are_not_the_variable_are_refused(tmp_path, shape, extents, stored, says):
    checkpoint = Checkpoint(sliced(tmp_path, shape, extents, stored))
    with pytest.raises(FormatError, match=says):
        checkpoint.array("w")


def test_repeated_slices_cannot_make_a_large_variable(tmp_path):
    files = sliced(tmp_path, [1000, 1000], [((0, 1), (0, 1000))] * 1000)
    tracemalloc.start()
    with pytest.raises(FormatError, match="do not make up its shape"):
        Checkpoint(files).array("w")
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


# -- chance -----------------------------------------------------------------------------------------------------------


def mutated(rng, data):
    """A few bytes changed, or a piece taken out, or put in twice."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        if data:
            data[rng.integers(len(data))] = rng.choice([0, 1, 127, 128, 255, rng.integers(256)])
    if data and rng.random() < 0.2:
        at = int(rng.integers(len(data)))
        data[at : at + int(rng.integers(8))] = data[:3] if rng.random() < 0.5 else b""
    return bytes(data)


@pytest.mark.parametrize("name", ["basic_lstm_stack", "lstm_partitioned", "keras_subclassed"])
def test_mutated_files_of_tensorflow_raise_nothing_but_engine_errors(tmp_path, name):
    rng = np.random.default_rng(5)
    files = golden(name)
    for _ in range(100):
        spoiled = str(rng.choice(sorted(files)))
        (tmp_path / spoiled).write_bytes(mutated(rng, files[spoiled].read_bytes()))
        try:
            read_all(files | {spoiled: tmp_path / spoiled})
        except EngineError:
            continue


def test_mutated_blocks_whose_checksums_fit_raise_nothing_but_engine_errors(tmp_path):
    rng = np.random.default_rng(6)
    entries, data = writer.bundle({name: VARIABLES[name] for name in list(VARIABLES)[:6]})
    whole = slice_key("part", ((0, 2),))
    part = np.ones(2, "float32").tobytes()
    entries[b"part"] = writer.entry(1, [2], 0, 0, 0, 0, writer.message((1, writer.message((1, 0), (2, 2)))))
    entries[whole] = writer.entry(1, [2], 0, len(data[0]), len(part), writer.crc32c(part))
    fine = 0
    for _ in range(300):
        spoil = (lambda body: mutated(rng, body)) if rng.random() < 0.5 else bytes
        values = {key: value if rng.random() < 0.7 else mutated(rng, value) for key, value in entries.items()}
        files = writer.write(tmp_path, writer.table(values, spoil=spoil), [data[0] + part])
        try:
            read_all(files)
            fine += 1
        except EngineError:
            continue
    assert fine < 100  # most mutations do meet something
