"""What is known about an image: its digest, and how it was made; a JSON file beside it."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hpcjobs.run.errors import InputError
from hpcjobs.run.files import read_json, sha256, write_json


@dataclass(frozen=True)
class ImageRecord:
    """How an image was built, and the digest that it must keep."""

    sha256: str
    """Of the file; of a sandbox directory see ``image_digest``."""
    size_bytes: int
    definition: str
    """Name of the definition file."""
    definition_sha256: str
    """Of the definition, the files that it copies in, and the arguments."""
    versions: dict[str, str]
    """Packages in the lock that the image was built with."""
    program: str
    built_at: str
    built_by: str
    labels: dict[str, str] = field(default_factory=dict)
    signed_with: str | None = None
    """SHA-256 of the public key that signed it, in PEM; None is unsigned."""


def record_path(image: Path) -> Path:
    """Where the record of an image lies."""
    return image.with_name(f"{image.name}.json")


def write_record(image: Path, record: ImageRecord) -> None:
    """Writes the record atomically; whoever may read the image may read it too."""
    write_json(record_path(image), asdict(record))
    record_path(image).chmod(stat.S_IMODE(image.stat().st_mode) & 0o644)


def read_record(image: Path) -> ImageRecord | None:
    """Reads an image's record; None where the image came without one.

    Raises:
        InputError: the record cannot be read, or is no such record.
    """
    path = record_path(image)
    if not path.exists():
        return None
    try:
        return ImageRecord(**read_json(path))
    except TypeError as error:
        raise InputError(f"{path} is no record of an image: {error}; build it again") from error


def image_digest(image: Path) -> str:
    """The SHA-256 of an image file; of a sandbox directory, of all names, sizes and times in it.

    A sandbox's files are not read, that would take minutes on a network disk: a change that
    keeps a file's size and modification time is not seen. What must not change is a SIF.

    Raises:
        InputError: there is no such image, or it cannot be read.
    """
    try:
        return _tree_digest(image) if image.is_dir() else sha256(image)
    except OSError as error:
        raise InputError(
            f"cannot read the image {image}: {error.strerror}; build it with "
            f"`python -m hpcjobs.container build`, or set container.image"
        ) from error


def image_bytes(image: Path) -> int:
    """Size of an image file, or of all files of a sandbox."""
    if not image.is_dir():
        return image.stat().st_size
    return sum(size for _, size, _ in _tree(image))


def check_digest(image: Path, planned: str) -> None:
    """Compares an image with the digest that it was planned, built or recorded with.

    Raises:
        InputError: it is another image, or there is none.
    """
    found = image_digest(image)
    if found != planned:
        raise InputError(
            f"{image} is not the image it was: its digest is {found[:16]}..., expected "
            f"{planned[:16]}...; restore or rebuild it, or submit the run again to take this one"
        )


def _tree_digest(root: Path) -> str:
    digest = hashlib.sha256()
    for name, size, modified in _tree(root):
        digest.update(f"{name}\0{size}\0{modified}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _tree(root: Path) -> list[tuple[str, int, str]]:
    """Name, size and time (or target of a link) of all files and links in order.

    Directories that this user cannot read are left out: the container cannot read them either.
    """
    found = []
    for folder, directories, names in os.walk(root):
        for name in (*names, *directories):
            path = os.path.join(folder, name)  # noqa: PTH118 - a sandbox has 30,000 files
            status = os.lstat(path)
            if stat.S_ISDIR(status.st_mode):
                continue
            linked = stat.S_ISLNK(status.st_mode)
            what = os.readlink(path) if linked else str(status.st_mtime_ns)  # noqa: PTH115
            found.append((os.path.relpath(path, root), status.st_size, what))
    return sorted(found)
