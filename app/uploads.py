"""Multipart bodies straight to disk: the files of a model, and its config."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from app.bodies import chunks, refuse_compressed
from app.problems import Problem
from app.registry.store import storing
from app.settings import Settings

BLOCK = 1 << 20  # bytes that are handed to the parser, and so to the disk, at a time
MAX_FILES = 64
MAX_HEADERS = 16 << 10
MAX_NAME = 200  # bytes of a file's name

HOW = "send multipart/form-data with `files` and perhaps `config`: curl -X PUT … -F files=@model.safetensors"


@dataclass
class Upload:
    """What came: paths by the names of the files, and the config as it stood there."""

    files: dict[str, Path] = field(default_factory=dict)
    config: bytes = b""


async def receive(request: Request, folder: Path, settings: Settings) -> Upload:
    """Writes the files of a multipart body to a folder. Raises a Problem: 408, 413 over the limit, 415, 400, 422."""
    refuse_compressed(request.headers.get("content-encoding"))
    media_type, options = parse_options_header(request.headers.get("content-type"))
    if media_type != b"multipart/form-data" or not options.get(b"boundary"):
        raise Problem(415, f"the body is {media_type.decode('latin-1')!r:.100}: {HOW}")
    limit, what = settings.max_upload_bytes, "the upload (UNROLLED_MAX_UPLOAD_BYTES)"
    parts = _Parts(folder, settings.max_body_bytes)
    try:
        parser = MultipartParser(options[b"boundary"], parts.callbacks())
        block = bytearray()
        async for chunk in chunks(request, limit, what, settings.body_seconds):
            block += chunk
            if len(block) >= BLOCK:
                await asyncio.to_thread(parser.write, bytes(block))
                block.clear()
        await asyncio.to_thread(parser.write, bytes(block))
    except FormParserError as error:
        raise Problem(400, f"the body is not multipart: {error}. {HOW}") from None
    finally:
        parts.close()
    if not parts.ended:
        raise Problem(400, "the body ends in the middle: its last boundary is missing")
    if not parts.upload.files:
        raise Problem(422, f"no `files` came: {HOW}", ("files",))
    return parts.upload


class _Parts:
    """What the parser calls as it finds the parts of a body."""

    def __init__(self, folder: Path, config_limit: int) -> None:
        self.upload = Upload()
        self.ended = False
        self._folder = folder
        self._config_limit = config_limit
        self._headers: dict[str, bytes] = {}
        self._header: list[bytes] = [b"", b""]
        self._header_bytes = 0
        self._file: IO[bytes] | None = None
        self._config: bytearray | None = None
        self._has_config = False

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header_part(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._header_part(1, data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._open,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._headers, self._header, self._header_bytes = {}, [b"", b""], 0

    def _header_part(self, which: int, data: bytes) -> None:
        self._header[which] += data
        self._header_bytes += len(data)
        if self._header_bytes > MAX_HEADERS:
            raise Problem(400, f"a part's headers are over {MAX_HEADERS} bytes")

    def _header_end(self) -> None:
        self._headers[self._header[0].decode("latin-1").lower()] = self._header[1]
        self._header = [b"", b""]

    def _open(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition", b""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name == "config":
            if self._has_config:
                raise Problem(422, "`config` came twice: give one", ("config",))
            self._config, self._has_config = bytearray(), True
        elif name == "files":
            self._open_file(options.get(b"filename", b""))
        else:
            raise Problem(422, f"unknown part {name!r:.80}: known are `files` and `config`", (name,))

    def _open_file(self, given: bytes) -> None:
        # some clients send a path; what stands before the last slash is theirs
        name = given.replace(b"\\", b"/").rpartition(b"/")[2].decode("utf-8", "replace")
        if not name.strip(". ") or not name.isprintable() or len(name.encode()) > MAX_NAME:
            raise Problem(
                422,
                f"a file came with the name {name!r:.80}: the name tells its format, as model.safetensors does; up to "
                f"{MAX_NAME} bytes",
                ("files",),
            )
        if name in self.upload.files:
            raise Problem(422, f"two files are called {name!r}: give each once", ("files",))
        if len(self.upload.files) == MAX_FILES:
            raise Problem(422, f"over {MAX_FILES} files: give those of one model", ("files",))
        with storing():
            self._file = (self._folder / name).open("xb")
        self.upload.files[name] = self._folder / name

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            with storing():
                self._file.write(memoryview(data)[start:end])
        elif self._config is not None:
            self._config += data[start:end]
            if len(self._config) > self._config_limit:
                raise Problem(
                    413,
                    f"config is over the limit of {self._config_limit} bytes (UNROLLED_MAX_BODY_BYTES)",
                    ("config",),
                )

    def _end(self) -> None:
        if self._config is not None:
            self.upload.config, self._config = bytes(self._config), None
        self.close()

    def _finish(self) -> None:
        self.ended = True

    def close(self) -> None:
        if self._file is not None:
            with storing():
                self._file.close()
            self._file = None
