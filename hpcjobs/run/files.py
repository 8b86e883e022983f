"""Atomic, private files: a reader sees the old content or the new, never half of it."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpcjobs.run.errors import InputError

PRIVATE_FILE = 0o600
PRIVATE_DIR = 0o700
_CHUNK_BYTES = 1 << 20
_ROOM_BYTES = 1 << 16


def write_text(path: Path, text: str) -> None:
    """Replaces ``path`` by ``text`` in one step, synced to disk, readable by the owner only."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_json(path: Path, value: object) -> None:
    """Replaces ``path`` by ``value`` as JSON, as ``write_text`` does."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:  # noqa: ANN401 - JSON values have no narrower type
    """Reads a JSON file.

    Raises:
        InputError: the file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def append_line(path: Path, value: object) -> None:
    """Appends one JSON line with a single write, so that writers do not mix their lines.

    A line that a full disk tore off is closed first, so that it does not spoil this one.

    Raises:
        OSError: the disk is full.
    """
    line = json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, PRIVATE_FILE)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        content = (b"\n" if torn else b"") + line.encode()
        if os.write(descriptor, content) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(descriptor)


def read_lines(path: Path) -> Iterator[Any]:
    """Yields the JSON lines of ``path``; a missing file has none, a torn last line is left out."""
    yield from Tail(path).new_lines()


class Tail:
    """Reads a growing file of JSON lines, each line once."""

    def __init__(self, path: Path) -> None:
        """Starts at the beginning; the file need not exist yet."""
        self._path = path
        self._offset = 0

    def new_lines(self) -> Iterator[Any]:
        """Yields the complete lines that came since the last call; broken ones are left out."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                try:
                    yield json.loads(line)
                except ValueError:
                    continue


def make_private_dir(path: Path) -> None:
    """Creates ``path`` and missing parents, mode 0700 whatever the umask says."""
    path.mkdir(mode=PRIVATE_DIR, parents=True, exist_ok=True)
    path.chmod(PRIVATE_DIR)


def has_no_room(path: Path) -> bool:
    """Whether the file system of a path is as good as full: even a small file may not fit."""
    return shutil.disk_usage(path).free < _ROOM_BYTES


def sync(path: Path) -> None:
    """Forces a file's content or a directory's entries to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
