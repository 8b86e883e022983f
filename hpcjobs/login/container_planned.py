"""The submission's half of the container: which image exactly, trusted and there."""

import os
import pwd
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpcjobs.login.container_mounts import container_mounts
from hpcjobs.node.pyxis import refuse_unnameable
from hpcjobs.run.container_config import Container
from hpcjobs.run.container_plan import ContainerPlan, Seal, container_plan, seal_of
from hpcjobs.run.errors import ConfigError, InputError
from hpcjobs.run.experiment import Experiment
from hpcjobs.run.files import PRIVATE_DIR, read_json
from hpcjobs.run.image_record import image_digest, read_record, record_path
from hpcjobs.run.layout import RunDir
from hpcjobs.run.trust import refuse_untrusted


def planned_container(experiment: Experiment, run: RunDir) -> dict[str, Any] | None:
    """What the launch file says of the container; None where there is none.

    Hashing an image that has no record of its own takes over a second a gigabyte.

    Raises:
        InputError: the image is missing, somebody else's, or not the one that was asked for.
        ConfigError: the run began with another image and nobody said that it may change.
    """
    settings = experiment.container
    if settings.kind == "none" or settings.image is None:
        return None
    image = Path(settings.image)
    if settings.sha256 is None:  # one that is pinned by hand may be anybody's
        refuse_foreign_image(image, experiment)
    digest, seal = digest_of(image)
    if experiment.data.builtin is not None:
        Path(experiment.data.root).mkdir(PRIVATE_DIR, parents=True, exist_ok=True)  # to be bound
    _refuse_another(settings, digest)
    _refuse_changed(settings, digest, run)
    plan = ContainerPlan(
        kind=settings.kind,
        image=str(image),
        digest=digest,
        seal=seal,
        mounts=container_mounts(experiment, run),
        gpu="none" if experiment.parallel.device == "cpu" else settings.gpu,
        python=settings.python,
        hf_home=settings.hf_home,
        cache_dir=settings.cache_dir,
    )
    if plan.kind == "pyxis":
        refuse_unnameable(plan)
    return asdict(plan)


def missing_image(container: Container) -> list[str]:
    """Says whether the image cannot be seen from here, with the remedy."""
    if container.image is None or Path(container.image).exists():
        return []
    remedy = "build one with python -m hpcjobs.container build, or write container.image=PATH"
    return [f"container.image: {container.image} does not exist: {remedy}"]


def digest_of(image: Path) -> tuple[str, Seal | None]:
    """An image's digest, and what tells later that it is still the same file.

    The record beside it counts if the image has not changed since the record was written: the
    time of the last change (ctime) cannot be set back.

    Raises:
        InputError: it cannot be read.
    """
    if image.is_dir():
        return image_digest(image), None
    try:
        seal = seal_of(image)  # before the reading: what changes meanwhile is noticed
        record = read_record(image)
        unchanged = record is not None and seal.ctime_ns <= record_path(image).stat().st_mtime_ns
        if record is not None and unchanged and record.size_bytes == seal.size_bytes:
            return record.sha256, seal
    except OSError as error:
        raise InputError(f"container.image: cannot read {image}: {error.strerror}") from error
    return image_digest(image), seal


def refuse_foreign_image(image: Path, experiment: Experiment) -> None:
    """Refuses an image that somebody could replace who is not trusted: it runs as this user.

    Raises:
        InputError: names the owner and what to write.
    """
    refuse_untrusted(image, experiment.cluster.trusted)
    try:
        status = image.stat()
    except OSError as error:
        raise InputError(f"container.image: cannot see {image}: {error.strerror}") from error
    owner = _user(status.st_uid)
    if status.st_uid not in (0, os.getuid()) and owner not in experiment.cluster.trusted:
        raise InputError(
            f"container.image: {image} belongs to {owner}: pin it with container.digest, or write "
            f"cluster.trusted=[{owner}]"
        )


def _refuse_another(settings: Container, digest: str) -> None:
    if settings.sha256 is not None and settings.sha256 != digest:
        raise InputError(
            f"container.image: {settings.image} has the digest sha256:{digest}, not the one in "
            f"container.digest"
        )


def _refuse_changed(settings: Container, digest: str, run: RunDir) -> None:
    """A run goes on with the image that it began with, unless another one is named on purpose."""
    if settings.sha256 is not None or not run.launch.exists():
        return
    before = read_json(run.launch).get("container")
    if before is None:
        return
    plan = container_plan(before)
    if plan.image == settings.image and plan.digest != digest:
        raise ConfigError(
            f"container.image: {settings.image} is not the image that the run began with "
            f"(sha256:{plan.digest[:16]}...): restore it, or go on with this one by "
            f"container.digest=sha256:{digest}"
        )


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
