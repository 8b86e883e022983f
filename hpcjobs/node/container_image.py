"""Whether an image is still the one that the run was planned with."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from hpcjobs.run.container_plan import ContainerPlan, Seal, seal_of
from hpcjobs.run.errors import InputError
from hpcjobs.run.files import read_json, write_json
from hpcjobs.run.image_record import check_digest

SEEN = "image_seen.json"
"""In the run directory: the image as it looked when a node had to read it, and its digest."""


def refuse_other_image(plan: ContainerPlan, beside: Path) -> None:
    """Refuses an image whose digest is not the planned one; reads it only if it looks changed.

    Reading costs over a second a gigabyte, in every attempt, on every node, from one file system. A
    file of the same size, times and inode as when it was hashed has not been written since:
    the time of the last change cannot be set back (``Seal``). What looks different, such as a
    copy, is read once and remembered in the run directory.

    Args:
        plan: the container.
        beside: a file of the run directory.

    Raises:
        InputError: the image is missing, cannot be read, or is another one.
    """
    image, seen = Path(plan.image), beside.with_name(SEEN)
    if plan.seal is None:
        return check_digest(image, plan.digest)
    try:
        now = seal_of(image)
    except OSError as error:
        raise InputError(f"container.image: cannot see {image}: {error.strerror}") from error
    if now in (plan.seal, _remembered(seen, plan.digest)):
        return None
    check_digest(image, plan.digest)
    write_json(seen, {"digest": plan.digest, "seal": asdict(now)})
    return None


def _remembered(seen: Path, digest: str) -> Seal | None:
    try:
        record = read_json(seen)
        return Seal(**record["seal"]) if record["digest"] == digest else None
    except (InputError, TypeError, KeyError):
        return None
