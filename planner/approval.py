"""An approval: who agreed to which plan, in a file whose owner is the proof.

The record lies in a file that belongs to the approver and that nobody else can write. Its
content alone proves nothing: whoever reads it asks the operating system whose file it is.
"""

import hashlib
import math
import os
import pwd
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from planner.errors import PlannerError

if TYPE_CHECKING:
    from planner.plan import Plan

APPROVAL_VERSION = 1
_RECORD_MODE = 0o644
_LARGEST_BYTES = 1 << 16
_DIGITS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """What an approver signs."""

    version: int
    decision: Literal["approved", "rejected"]
    approver: str
    """Name of the operating-system user."""
    decided: str
    """ISO 8601, UTC."""
    plan_hash: str
    """Of everything that the plan says."""
    config_hash: str
    """Of the experiment that the plan was made for."""
    gpu_hours_p95: float
    cost_p95: float | None
    currency: str | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class SignedApproval:
    """A record with the user that its file belongs to."""

    approval: Approval
    owner_uid: int

    @property
    def owner(self) -> str:
        """Name of the file's owner."""
        return user_name(self.owner_uid)


def user_name(uid: int) -> str:
    """The operating-system user's name; the number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def uids_of(names: tuple[str, ...]) -> frozenset[int]:
    """The users behind the names; a name that this machine does not know is nobody."""
    uids = set()
    for name in names:
        try:
            uids.add(pwd.getpwnam(name).pw_uid)
        except KeyError:
            continue
    return frozenset(uids)


def plan_hash(plan: "Plan") -> str:
    """SHA-256 of the plan's whole content in one canonical spelling."""
    content = msgspec.json.encode(
        msgspec.to_builtins(plan, enc_hook=_number), order="deterministic"
    )
    return hashlib.sha256(content).hexdigest()


def p95_gpu_hours(plan: "Plan") -> float:
    """The GPU-hours that an approval is about.

    Raises:
        PlannerError: the plan chose nothing, or its hours are not known.
    """
    if plan.chosen is None:
        raise PlannerError("the plan found nothing that fits: there is nothing to approve")
    cost = plan.chosen.prediction.cost
    hours = math.nan if cost is None else float(cost.gpu_hours_p95)
    if not 0 < hours < math.inf:
        raise PlannerError("the plan does not know its GPU-hours: set steps, or samples and epochs")
    return hours


def record_path(plan: "Plan", path: Path, directory: Path | None) -> Path:
    """Where the record of a plan lies: beside the plan, or in the approvers' directory.

    In a directory that many plans share, the name is the beginning of the plan's hash.
    """
    if directory is None:
        return path.with_name(f"{path.stem}.approval.json")
    return directory / f"{plan_hash(plan)[:_DIGITS]}.approval.json"


def write_approval(path: Path, approval: Approval) -> None:
    """Publishes a record in one step, readable by everyone, writable by its owner.

    The directory may belong to somebody else. It is opened once and never followed again, new
    files are created exclusively, and an older record of the same owner is overwritten before
    it is replaced, so that a hard link cannot keep a withdrawn approval alive.

    Raises:
        PlannerError: the directory cannot be written.
    """
    content = msgspec.json.format(msgspec.json.encode(approval), indent=2) + b"\n"
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise PlannerError(f"cannot use the directory {path.parent}: {error.strerror}") from error
    try:
        _overwrite(directory, path.name, content)
        _publish(directory, path.name, content)
    except OSError as error:
        raise PlannerError(
            f"cannot write {path}: {error.strerror}; write --to DIR, a directory of the approvers"
        ) from error
    finally:
        os.close(directory)


def read_approval(path: Path) -> SignedApproval:
    """Reads a record and whose it is; both from one open file, so that they belong together.

    Raises:
        PlannerError: there is none, or the file could have been written by somebody else than
            its owner.
    """
    content, status = _read_guarded(path)
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PlannerError(
            f"{path} can be written by others than its owner, so it proves nothing: approve again"
        )
    if status.st_nlink != 1:
        raise PlannerError(f"{path} has {status.st_nlink} hard links, it must be the only one")
    return SignedApproval(_decode(content, path), status.st_uid)


def _read_guarded(path: Path) -> tuple[bytes, os.stat_result]:
    """Content and status of a regular file, never through a symbolic link."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise PlannerError(
            f"the plan is not approved: there is no {path}; an approver runs: "
            f"python -m planner approve PLAN"
        ) from None
    except OSError as error:
        what = "it is a symbolic link" if path.is_symlink() else error.strerror
        raise PlannerError(f"cannot read the approval {path}: {what}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise PlannerError(f"the approval {path} is no regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(_LARGEST_BYTES), status
    finally:
        os.close(descriptor)


def _decode(content: bytes, path: Path) -> Approval:
    try:
        version = msgspec.json.decode(content, type=dict[str, Any]).get("version")
        if version != APPROVAL_VERSION:
            raise PlannerError(
                f"{path} is of version {version}, this is version {APPROVAL_VERSION}: approve again"
            )
        return msgspec.json.decode(content, type=Approval)
    except msgspec.MsgspecError as error:
        raise PlannerError(f"{path} holds no approval: {error}") from error


def _overwrite(directory: int, name: str, content: bytes) -> None:
    """Replaces the content of an own older record in place; anything else is left alone."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=directory)
    except OSError:
        return
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid():
            return
        msgspec.json.decode(os.read(descriptor, _LARGEST_BYTES), type=Approval)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, content, 0)
    except msgspec.MsgspecError:
        return
    finally:
        os.close(descriptor)


def _publish(directory: int, name: str, content: bytes) -> None:
    partial = f".{name}.{secrets.token_hex(8)}.partial"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(partial, flags, 0o600, dir_fd=directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), _RECORD_MODE)
            os.fsync(file.fileno())
        os.replace(partial, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        os.unlink(partial, dir_fd=directory)
        raise


def _number(value: Any) -> Any:  # noqa: ANN401 - numbers of numpy as those of Python
    return value.tolist()
