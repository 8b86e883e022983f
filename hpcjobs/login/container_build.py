"""Builds an image: the whole of it under its final name, or nothing."""

import os
import pwd
import shutil
import socket
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from hpcjobs.login.build_progress import BuildProgress
from hpcjobs.login.container_checks import (
    arguments_of,
    refuse_missing_tools,
    refuse_target,
    refuse_tmpdir,
    system_path,
)
from hpcjobs.login.container_definition import Definition
from hpcjobs.login.container_flags import build_words, builder_here
from hpcjobs.login.container_inspect import labels_of
from hpcjobs.login.container_process import reason_in, watch_build
from hpcjobs.login.package_sources import PIP_CONF, lay_out, pip_settings
from hpcjobs.run.container_program import Program
from hpcjobs.run.errors import InputError
from hpcjobs.run.files import sync
from hpcjobs.run.image_record import (
    ImageRecord,
    image_bytes,
    image_digest,
    read_record,
    record_path,
    write_record,
)

_SHARED_MODE = 0o755


@dataclass(frozen=True, slots=True)
class Build:
    """What shall be built, and where to."""

    definition: Definition
    target: Path
    """The image file, or the directory of a sandbox."""
    sandbox: bool = False
    force: bool = False
    shared: bool = False
    """Whether other users may read the image."""
    tmpdir: Path | None = None
    given: Mapping[str, str] = field(default_factory=dict)
    """Arguments for the definition that were typed."""

    @property
    def log(self) -> Path:
        """Everything that the build says."""
        return self.target.with_name(f"{self.target.name}.log")


def build_image(build: Build, program: Program, progress: BuildProgress) -> ImageRecord:
    """Builds an image, unless the same one is there; returns its record.

    Raises:
        ConfigError: the definition needs an argument that nobody gave; something else lies at
            the target.
        InputError: the build failed; the message holds its last words and where all are.
    """
    arguments = arguments_of(build.definition, build.given)
    digest = build.definition.digest(arguments)
    if not build.force and (there := standing(build.target, digest)) is not None:
        _open_up(build)
        return there
    refuse_target(build.target, build.sandbox)
    refuse_tmpdir(build.tmpdir or Path(tempfile.gettempdir()))
    refuse_missing_tools(build.definition)
    build.target.parent.mkdir(parents=True, exist_ok=True)
    partial = build.target.with_name(f".{build.target.name}.{os.getpid()}.partial")
    try:
        _run(build, program, arguments, partial, progress)
        progress.stage("recording the digest")
        return _publish(build, program, partial, digest)
    finally:
        _remove(partial)


def standing(target: Path, digest: str) -> ImageRecord | None:
    """The record of an image that was built from the same; None if there is none, or another.

    Its bytes are not read: that they are still the same is what ``verify`` says.
    """
    if not target.exists():
        return None
    record = read_record(target)
    same = record is not None and record.definition_sha256 == digest
    return record if record and same and image_bytes(target) == record.size_bytes else None


def _run(
    build: Build,
    program: Program,
    arguments: Mapping[str, str],
    partial: Path,
    progress: BuildProgress,
) -> None:
    with tempfile.TemporaryDirectory(
        prefix="hpcjobs-build-",
        dir=build.tmpdir,
        ignore_cleanup_errors=True,  # what is left there may belong to subordinate ids
    ) as name:
        sources, scratch = Path(name) / "sources", Path(name) / "scratch"
        sources.mkdir()
        scratch.mkdir()
        wanted = build.definition.mentions(PIP_CONF)
        binds = lay_out(sources, pip_settings(), os.environ) if wanted else []
        words = build_words(
            program,
            builder_here(os.getuid(), user_name()),
            partial,
            build.definition.path,
            sandbox=build.sandbox,
            arguments=arguments,
            binds=binds,
        )
        environment = {
            **os.environ,
            f"{program.prefix}_TMPDIR": str(scratch),
            "PATH": system_path(),
        }
        code = watch_build(words, build.definition.path.parent, environment, build.log, progress)
    if code != 0:
        raise InputError(
            f"building {build.target.name} failed while {progress.current}: "
            f"{reason_in(build.log.read_text(encoding='utf-8'))}; all of it is in {build.log}"
        )


def _publish(build: Build, program: Program, partial: Path, digest: str) -> ImageRecord:
    if not build.sandbox:
        partial.chmod(_SHARED_MODE if build.shared else 0o700)
        sync(partial)
    record = ImageRecord(
        sha256=image_digest(partial),
        size_bytes=image_bytes(partial),
        definition=build.definition.path.name,
        definition_sha256=digest,
        versions=build.definition.versions,
        program=str(program),
        built_at=datetime.now(UTC).isoformat(timespec="seconds"),
        built_by=f"{user_name()}@{socket.gethostname()}",
        labels=labels_of(program, partial),
    )
    # Between the two steps an image stands beside no record or an older one: whoever compares
    # refuses it, and the next build makes it again.
    record_path(build.target).unlink(missing_ok=True)
    if build.target.is_dir():
        _remove(build.target)
    partial.replace(build.target)
    write_record(build.target, record)
    return record


def _open_up(build: Build) -> None:
    """Lets others read an image that stands already, where that is wanted.

    Nothing is written: a record that is younger than its image vouches for it.
    """
    if build.shared and stat.S_IMODE(build.target.stat().st_mode) != _SHARED_MODE:
        build.target.chmod(_SHARED_MODE)
        record_path(build.target).chmod(0o644)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        # Parts of a sandbox may belong to subordinate ids, which only their owner removes.
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def user_name() -> str:
    """Who runs this; the number where the system knows no name."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
