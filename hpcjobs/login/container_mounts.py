"""Which paths of the machine a run needs inside its container: computed from its real paths."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from hpcjobs.run.container_config import parse_bind
from hpcjobs.run.container_plan import Mount
from hpcjobs.run.experiment import Experiment
from hpcjobs.run.layout import RunDir


def container_mounts(experiment: Experiment, run: RunDir) -> tuple[Mount, ...]:
    """Everything that the run names and the user adds, parents first, nothing twice.

    Only the run directory, data that the run makes itself, and the user's own binds can be
    written to.
    """
    own = [mount for path, read_only in _named(experiment, run) for mount in seen(path, read_only)]
    added = (parse_bind(text) for text in experiment.container.binds)
    return merged([*own, *(Mount(*bind) for bind in added)])


def seen(path: Path, read_only: bool) -> Iterator[Mount]:
    """What makes a path usable inside under its own name, and the links that lead out of it.

    A path that leads over links is bound under both names, because files may hold either. The
    snapshots of a Hugging Face cache are links into a folder beside them, so links directly in a
    directory are followed once.
    """
    real = Path(os.path.realpath(path))
    yield Mount(str(real), os.path.normpath(path), read_only)
    yield Mount(str(real), str(real), read_only)
    for entry in _links(real):
        target = Path(os.path.realpath(entry))
        if target.exists() and not target.is_relative_to(real):
            folder = str(target if target.is_dir() else target.parent)
            yield Mount(folder, folder, True)


def merged(mounts: Iterable[Mount]) -> tuple[Mount, ...]:
    """Drops what a mount of a parent shows already; of two on one target the later one counts.

    >>> merged([Mount("/d/a", "/d/a", True), Mount("/d", "/d", True), Mount("/d", "/d", True)])
    (Mount(source='/d', target='/d', read_only=True),)
    """
    by_target: dict[str, Mount] = {}
    for mount in mounts:
        before = by_target.get(mount.target)
        writable = before is not None and before.source == mount.source and not before.read_only
        by_target[mount.target] = Mount(mount.source, mount.target, False) if writable else mount
    kept: list[Mount] = []
    for mount in sorted(by_target.values(), key=lambda mount: Path(mount.target).parts):
        if not _is_shown(mount, kept):
            kept.append(mount)
    return tuple(kept)


def _is_shown(mount: Mount, kept: list[Mount]) -> bool:
    """Whether the innermost mount around this one already shows the same, as writable."""
    around = [other for other in kept if Path(mount.target).is_relative_to(other.target)]
    if not around:
        return False
    inner = around[-1]
    same = Path(inner.source) / Path(mount.target).relative_to(inner.target) == Path(mount.source)
    return same and inner.read_only == mount.read_only


def _named(experiment: Experiment, run: RunDir) -> Iterator[tuple[Path, bool]]:
    """The paths of the configuration, and whether the run only reads there."""
    data, model, root = experiment.data, experiment.model, Path(experiment.data.root)
    yield run.path, False
    yield root, data.builtin is None
    if data.builtin is None:
        for name in (data.train, data.heldout, data.pictures):
            if name is not None:
                yield root / name, True
    start_from, hf_home = experiment.method.start_from, experiment.container.hf_home
    for path in (model.path, model.tokenizer, start_from, hf_home):
        own = data.builtin is not None and Path(path or "").is_relative_to(root)
        if path is not None and not own:  # what the run makes itself is not there yet
            yield Path(path), True


def _links(directory: Path) -> list[Path]:
    try:
        with os.scandir(directory) as entries:
            return [Path(entry.path) for entry in entries if entry.is_symlink()]
    except OSError:  # a file, or not there yet: the data that the run makes
        return []
