"""Committed checkpoints: a directory counts only with a manifest that its files satisfy."""

import errno
import itertools
import re
import shutil
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hpcjobs.run.errors import ConfigError, InputError
from hpcjobs.run.files import read_json, sha256, sync, write_json, write_text
from hpcjobs.run.schema import build, plain
from hpcjobs.run.trust import refuse_foreign_directory, refuse_foreign_files

MANIFEST = "manifest.json"
LATEST = "latest"
BEST = "best"
_READERS = 8
_LOOK_AGAIN_S = 0.2
VISIBLE_WITHIN_S = 60.0
"""Linux's NFS client caches attributes of directories so long (nfs(5), acdirmax)."""
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


def commit(staged: Path, manifest: Manifest) -> Path:
    """Publishes a complete directory out of an attempt's staging one: manifest, rename, sync.

    A crash at any point leaves either the staged directory, which is never read, or the whole
    checkpoint. ``latest`` is replaced afterwards and is only for people to look at.

    Raises:
        OSError: among others where the attempt is fenced off (``hpcjobs.run.fence``).
    """
    checkpoints = staged.parent.parent
    write_json(staged / MANIFEST, plain(manifest))
    final = step_dir(checkpoints, manifest.step)
    try:
        staged.rename(final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        _replace(staged, final)
    sync(checkpoints)
    write_text(checkpoints / LATEST, final.name + "\n")
    return final


def _replace(staged: Path, final: Path) -> None:
    """Publishes a step that is there already: directories cannot be swapped on every file system.

    The older one goes into the staging directory, so that a fenced attempt cannot touch it.
    """
    older = staged.with_name(f"{staged.name}.older")
    final.rename(older)
    try:
        staged.rename(final)
    except OSError:
        older.rename(final)
        raise
    shutil.rmtree(older, ignore_errors=True)


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
    """Checks that a checkpoint is this user's own, and every file of it against its manifest.

    Raises:
        InputError: somebody else owns it or could have written into it, the manifest is missing
            or unreadable, or a file is missing, truncated, changed or not named there; names the
            first such file.
    """
    refuse_foreign_directory(directory)
    entries = [path for path in directory.iterdir() if not path.name.startswith(".nfs")]
    refuse_foreign_files(entries)
    manifest = read_manifest(directory)
    for name in manifest.files:
        if Path(name).name != name:
            raise InputError(
                f"{directory / MANIFEST} names {name!r}, which is outside the checkpoint"
            )
    for path in entries:
        if path.name not in {*manifest.files, MANIFEST}:
            raise InputError(
                f"checkpoint {directory.name}: {path.name} is not named in its manifest"
            )
    with ThreadPoolExecutor(_READERS) as readers:  # digesting lets other threads run
        checks = [
            readers.submit(_verify_file, directory, name, expected)
            for name, expected in manifest.files.items()
        ]
    for check in checks:
        check.result()
    return manifest


def manifest_digest(directory: Path) -> str:
    """SHA-256 of a checkpoint's manifest: it stands for the whole checkpoint."""
    return sha256(directory / MANIFEST)


def wait_until_visible(
    directory: Path, digest: str | None = None, wait_s: float | None = None
) -> bool:
    """Waits until this machine sees a checkpoint's files in their sizes; NFS may show them late.

    Args:
        directory: a committed checkpoint.
        digest: of the manifest, where another machine has read it.
        wait_s: for so long; None as long as attributes are cached by default.
    """
    deadline = time.monotonic() + (VISIBLE_WITHIN_S if wait_s is None else wait_s)
    while not _is_visible(directory, digest):
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_AGAIN_S)
        committed_steps(directory.parent)  # listing it makes an NFS client ask again
    return True


def wait_for_latest(checkpoints: Path, wait_s: float = 3.0) -> None:
    """Gives a checkpoint that ``latest`` names and that is not there a moment to appear.

    After that the directories decide: ``latest`` is only a hint.
    """
    try:
        name = (checkpoints / LATEST).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return
    steps = committed_steps(checkpoints)
    if _COMMITTED.fullmatch(name) and (not steps or name > step_dir(checkpoints, steps[-1]).name):
        wait_until_visible(checkpoints / name, wait_s=wait_s)


def _is_visible(directory: Path, digest: str | None) -> bool:
    try:
        files = read_manifest(directory).files
        sizes = {name: (directory / name).stat().st_size for name in files}
        known = digest is None or manifest_digest(directory) == digest
    except (InputError, OSError):
        return False
    return known and all(sizes[name] == file.size_bytes for name, file in files.items())


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
            broken.rename(_free_name(broken.with_name(f"{broken.name}.rejected")))


def _free_name(wanted: Path) -> Path:
    numbered = (wanted.with_name(f"{wanted.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([wanted], numbered) if not path.exists())


def prune(checkpoints: Path, keep: int, staging: Path, best: Collection[int] = ()) -> list[int]:
    """Deletes all but the newest ``keep`` checkpoints and those of ``best``; returns their steps.

    Each goes into the attempt's staging directory first: never a half-deleted one under a valid
    name, and none that a newer attempt may be reading.
    """
    old = [step for step in committed_steps(checkpoints)[:-keep] if step not in best]
    for step in old:
        doomed = staging / f"step-{step:08d}.doomed"
        step_dir(checkpoints, step).rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    return old


def _verify_file(directory: Path, name: str, expected: FileSeal) -> None:
    path = directory / name
    if not path.is_file():
        raise InputError(f"checkpoint {directory.name}: {name} is missing")
    if path.stat().st_size != expected.size_bytes:
        raise InputError(
            f"checkpoint {directory.name}: {name} has {path.stat().st_size} bytes, "
            f"not {expected.size_bytes}"
        )
    if sha256(path) != expected.sha256:
        raise InputError(f"checkpoint {directory.name}: {name} was changed since it was saved")
