"""Committed checkpoints: a directory counts only with a manifest that its files satisfy."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from hpcjobs.run.errors import ConfigError, InputError
from hpcjobs.run.files import read_json, sha256, sync, write_json, write_text
from hpcjobs.run.schema import build, plain

MANIFEST = "manifest.json"
LATEST = "latest"
_COMMITTED = re.compile(r"step-(\d{8})")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSeal:
    """Size and SHA-256 of one file of a checkpoint."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a checkpoint holds, written last."""

    step: int
    world_size: int
    zero_stage: int
    attempt: int
    files: dict[str, FileSeal]


def step_dir(checkpoints: Path, step: int) -> Path:
    """The directory of a committed step, zero-padded so that names sort by step."""
    return checkpoints / f"step-{step:08d}"


def seal(path: Path) -> FileSeal:
    """Syncs a file to disk and returns its size and digest for the manifest."""
    sync(path)
    return FileSeal(size_bytes=path.stat().st_size, sha256=sha256(path))


def commit(partial: Path, manifest: Manifest) -> Path:
    """Publishes a complete temporary directory as a checkpoint: manifest, rename, sync.

    A crash at any point leaves either the temporary directory, which is never read, or the
    whole checkpoint. ``latest`` is replaced afterwards and is only for people to look at.
    """
    checkpoints = partial.parent
    write_json(partial / MANIFEST, plain(manifest))
    final = step_dir(checkpoints, manifest.step)
    if final.exists():
        shutil.rmtree(final)
    partial.rename(final)
    sync(checkpoints)
    write_text(checkpoints / LATEST, final.name + "\n")
    return final


def committed_steps(checkpoints: Path) -> list[int]:
    """Steps that have a checkpoint directory under its final name, ascending."""
    if not checkpoints.is_dir():
        return []
    matches = (_COMMITTED.fullmatch(entry.name) for entry in checkpoints.iterdir())
    return sorted(int(match.group(1)) for match in matches if match)


def read_manifest(directory: Path) -> Manifest:
    """Reads what a checkpoint says of itself, without looking at its files.

    Raises:
        InputError: the manifest is missing or unreadable.
    """
    try:
        return build(Manifest, read_json(directory / MANIFEST))
    except ConfigError as error:
        raise InputError(
            f"{directory / MANIFEST} is no manifest of this version: {error}"
        ) from error


def verify(directory: Path) -> Manifest:
    """Checks every file of a checkpoint against its manifest.

    Raises:
        InputError: the manifest is missing or unreadable, or a file is missing, truncated
            or changed; names the first such file.
    """
    manifest = read_manifest(directory)
    for name, expected in manifest.files.items():
        _verify_file(directory, name, expected)
    return manifest


def newest_valid(checkpoints: Path) -> tuple[Path | None, list[str]]:
    """Returns the newest checkpoint that passes ``verify``, and what is wrong with newer ones."""
    problems = []
    for step in reversed(committed_steps(checkpoints)):
        directory = step_dir(checkpoints, step)
        try:
            verify(directory)
        except InputError as error:
            problems.append(str(error))
            continue
        return directory, problems
    if not problems and (checkpoints / LATEST).exists():
        problems.append(f"{checkpoints} held checkpoints, and they are gone")
    return None, problems


def set_aside_newer(checkpoints: Path, step: int) -> None:
    """Renames the broken checkpoints after ``step`` to ``*.rejected``, so that a look is possible.

    Under their own names they would count among those that ``prune`` keeps, and drive the
    intact ones out.
    """
    for newer in committed_steps(checkpoints):
        if newer > step:
            broken = step_dir(checkpoints, newer)
            aside = broken.with_name(f"{broken.name}.rejected")
            shutil.rmtree(aside, ignore_errors=True)
            broken.rename(aside)


def prune(checkpoints: Path, keep: int) -> list[int]:
    """Deletes all but the newest ``keep`` checkpoints and every leftover of a crashed save."""
    old = committed_steps(checkpoints)[:-keep]
    for step in old:
        doomed = checkpoints / f"deleting-{step:08d}.partial"
        step_dir(checkpoints, step).rename(doomed)  # never a half-deleted one under a valid name
    sweep(checkpoints)
    return old


def sweep(checkpoints: Path) -> None:
    """Deletes what crashed saves and deletions left behind."""
    if not checkpoints.is_dir():
        return
    for leftover in checkpoints.glob("*.partial"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)


def _verify_file(directory: Path, name: str, expected: FileSeal) -> None:
    path = directory / name
    if Path(name).name != name:
        raise InputError(f"{directory / MANIFEST} names {name!r}, which is outside the checkpoint")
    if not path.is_file():
        raise InputError(f"checkpoint {directory.name}: {name} is missing")
    if path.stat().st_size != expected.size_bytes:
        raise InputError(
            f"checkpoint {directory.name}: {name} has {path.stat().st_size} bytes, "
            f"not {expected.size_bytes}"
        )
    if sha256(path) != expected.sha256:
        raise InputError(f"checkpoint {directory.name}: {name} was changed since it was saved")
