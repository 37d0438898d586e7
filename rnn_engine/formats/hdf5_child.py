"""Reads one HDF5 file in a process of its own: `python -I hdf5_child.py REQUEST`, started by `hdf5.py`.

libhdf5 crashes, hangs and allocates without bounds on damaged files, so that it must not run inside a service. This
script stands alone: it imports nothing of the package, which keeps the start of the process short. It walks the groups
by their hard links only, and writes the datasets and the attributes that matter to a safetensors file; any trouble is
one JSON line on its standard output and a non-zero exit status.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

#: Attributes that a Keras file keeps its architecture, versions and names in; lists may be cut into numbered pieces.
WANTED = ("model_config", "keras_version", "backend", "layer_names", "weight_names", "name")
MAX_OBJECTS, MAX_DEPTH, MAX_NAMES, MAX_TEXT = 100_000, 64, 1_000_000, 1 << 26
SLAB = 1 << 24  # bytes of a dataset that are held at a time
REFUSED, NO_ROOM = 3, 4  # exit statuses


class Refused(Exception):
    """A file that is not read, with a reason that its owner understands."""


def main(request: dict[str, Any]) -> None:
    """`request` has path, out, limit (bytes of all datasets), skip (groups of the root), memory and seconds."""
    sys.path[:] = request["sys_path"]
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # each thread of it would claim memory, and nothing is multiplied here
    h5py = importlib.import_module(
        "h5py"
    )  # what takes long to import, and the memory it takes, comes before the limits

    _restrict(request["memory"], request["seconds"])
    try:
        with h5py.File(request["path"], "r") as file:
            walk = Walk(h5py, request["limit"], set(request["skip"]))
            walk.seen.add(int(h5py.h5o.get_info(file.id).addr))
            walk.group(file, "", 0)
            _write(request["out"], walk)
    except Refused as error:
        _fail(REFUSED, str(error))
    except MemoryError:
        _fail(REFUSED, "it claims more memory than its size allows")
    except OSError as error:
        out_of_room = error.filename == request["out"] or error.errno in (28, 122)  # ENOSPC, EDQUOT
        _fail(NO_ROOM if out_of_room else REFUSED, str(error))
    except Exception as error:
        _fail(REFUSED, f"{type(error).__name__}: {error}")


def _restrict(memory: int, seconds: int) -> None:
    try:
        import resource
    except ImportError:  # not on Windows, where the parent's timeout is all there is
        return
    wanted = {resource.RLIMIT_AS: memory, resource.RLIMIT_CPU: seconds, resource.RLIMIT_CORE: 0}
    for kind, value in wanted.items():
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, hard))


def _fail(status: int, reason: str) -> None:
    sys.stdout.write(json.dumps({"reason": reason[:400]}))
    sys.stdout.flush()
    os._exit(status)  # without the library's own cleaning up, which may crash too


class Walk:
    """What was found: datasets with the address of their headers (they were written in that order), attributes."""

    def __init__(self, h5py: Any, limit: int, skip: set[str]) -> None:
        self.h5py, self.limit, self.skip = h5py, limit, skip
        self.datasets: list[tuple[int, str, Any, str]] = []  # address, path, dataset, type to write
        self.attributes: dict[str, dict[str, str | list[str]]] = {}
        self.skipped: dict[str, str] = {}
        self.seen: set[int] = set()
        self.objects = self.bytes = 0

    def group(self, group: Any, path: str, depth: int) -> None:
        """Takes a group's attributes and all that hangs on its hard links."""
        if depth > MAX_DEPTH:
            raise Refused(f"its groups are nested more than {MAX_DEPTH} deep")
        found = self.texts(group)
        if found:
            self.attributes[path] = found
        h5 = self.h5py
        for name in group:
            self.objects += 1
            if self.objects > MAX_OBJECTS:
                raise Refused(f"it has more than {MAX_OBJECTS} objects")
            inner = f"{path}/{name}" if path else name
            if inner in self.skip:
                continue
            raw = name.encode("utf-8", "surrogateescape")
            if not _is_text(name):
                raise Refused("the name of an object is not UTF-8")
            if group.id.links.get_info(raw).type != h5.h5l.TYPE_HARD:
                self.skipped[inner] = "a soft or external link"
                continue
            address = int(h5.h5o.get_info(group.id, raw).addr)
            thing = group[name]
            if isinstance(thing, h5.Group):
                if address in self.seen:
                    self.skipped[inner] = "a second link to a group"
                    continue
                self.seen.add(address)
                self.group(thing, inner, depth + 1)
            elif isinstance(thing, h5.Dataset):
                self.dataset(thing, inner, address)
            else:
                self.skipped[inner] = "neither a group nor a dataset"

    def dataset(self, dataset: Any, path: str, address: int) -> None:
        """Checks what a dataset claims before anything of it is read."""
        if dataset.external or dataset.is_virtual:
            self.skipped[path] = "data in other files"
            return
        code = _code(dataset)
        if code is None:
            self.skipped[path] = f"values of type {str(dataset.dtype)[:40]}"
            return
        if dataset.shape is None:
            self.skipped[path] = "no values"
            return
        size = math.prod(dataset.shape) * dataset.dtype.itemsize
        stored = dataset.id.get_storage_size()
        packed = dataset.chunks is not None and dataset.id.get_create_plist().get_nfilters() > 0
        if size > stored and not packed:
            raise Refused(f"{path} claims {size} bytes, and {stored} are stored")
        self.bytes += math.prod(dataset.shape) * int(code[1][-1])
        if self.bytes > self.limit:
            raise Refused(f"its datasets unpack to more than the limit of {self.limit} bytes")
        self.datasets.append((address, path, dataset, code[0]))

    def texts(self, group: Any) -> dict[str, str | list[str]]:
        """The wanted attributes of a group that are a text or a list of texts."""
        out: dict[str, str | list[str]] = {}
        ids = self.h5py.h5a
        for k in range(min(ids.get_num_attrs(group.id), 10_000)):
            attribute = ids.open(group.id, index=k)
            name = attribute.name.decode("utf-8", "replace")
            if name.rstrip("0123456789") not in WANTED:
                continue
            space, kind = attribute.get_space(), attribute.get_type()
            count = space.get_simple_extent_npoints()
            if count > MAX_NAMES or count * kind.get_size() > MAX_TEXT:
                raise Refused(f"its attribute {name} claims {count} values")
            if count == 0:
                out[name] = []
            elif isinstance(kind, self.h5py.h5t.TypeStringID):
                out[name] = _plain(group.attrs[name])
        return out


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _plain(value: Any) -> str | list[str]:
    """A string, or an array of strings, of any of h5py's kinds."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if getattr(value, "ndim", 0):
        return [text for item in value.reshape(-1).tolist() if isinstance(text := _plain(item), str)]
    return _plain(value.tolist()) if hasattr(value, "tolist") else str(value)


def _code(dataset: Any) -> tuple[str, str] | None:
    """Names of a dataset's type in safetensors and in NumPy, the half floats widened; None for what is no number."""
    kind = dataset.dtype
    if kind.kind == "f" and kind.itemsize in (2, 4):
        return "F32", "<f4"
    if kind.kind == "f" and kind.itemsize == 8:
        return "F64", "<f8"
    if kind.kind in "iu" and kind.itemsize in (1, 2, 4, 8):
        return f"{'I' if kind.kind == 'i' else 'U'}{8 * kind.itemsize}", f"<{kind.kind}{kind.itemsize}"
    return ("F32", "<f4") if _is_bfloat16(dataset) else None


def _is_bfloat16(dataset: Any) -> bool:
    """Whether these are two opaque bytes that an attribute calls bfloat16, as Keras 3 writes them."""
    return dataset.dtype.kind == "V" and dataset.dtype.itemsize == 2 and dataset.attrs.get("dtype") == "bfloat16"


def _write(path: str, walk: Walk) -> None:
    """All datasets as a safetensors file, widest items first, which keeps every one of them aligned."""
    order = [name for _, name, _, _ in sorted(walk.datasets, key=lambda entry: entry[:2])]
    metadata = {"order": order, "attributes": walk.attributes, "skipped": walk.skipped}
    header: dict[str, Any] = {"__metadata__": {key: json.dumps(value) for key, value in metadata.items()}}
    widest_first = sorted(walk.datasets, key=lambda entry: -int(_numpy(entry)[-1]))
    offset = 0
    for entry in widest_first:
        _, name, dataset, code = entry
        end = offset + math.prod(dataset.shape) * int(_numpy(entry)[-1])
        header[name] = {"dtype": code, "shape": list(dataset.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for entry in widest_first:
            for slab in _slabs(entry[2]):
                _put(out.write, slab, entry)


def _numpy(entry: tuple[int, str, Any, str]) -> str:
    code = _code(entry[2])
    return code[1] if code else "<f4"


def _slabs(dataset: Any) -> Iterator[Any]:
    """A dataset's values piece by piece, along its first axis."""
    if not math.prod(dataset.shape):
        return
    if not dataset.shape:
        yield dataset[()]
        return
    row = max(1, math.prod(dataset.shape[1:]) * dataset.dtype.itemsize)
    rows = max(1, SLAB // row)
    for start in range(0, dataset.shape[0], rows):
        yield dataset[start : start + rows]


def _put(write: Callable[[Any], Any], slab: Any, entry: tuple[int, str, Any, str]) -> None:
    import numpy as np

    values = np.ascontiguousarray(slab)
    if values.dtype.kind == "V":
        values = (values.view("<u2").astype("<u4") << 16).view("<f4")
    write(values.astype(_numpy(entry), copy=False).reshape(-1).view(np.uint8).data)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
