"""Packs the code that travels in the run directory: the nodes' part, and the training's.

A run keeps the code that it was submitted with: through requeues, whatever is installed meanwhile,
and inside images that hold nothing of hpcjobs.
"""

import zipfile
from collections.abc import Iterable
from pathlib import Path

from hpcjobs.run.files import PRIVATE_FILE

_PACKAGE = Path(__file__).resolve().parents[1]
_NODE_ENTRY = "import sys\nfrom hpcjobs.node.main import main\nsys.exit(main())\n"
# Guarded: a loader process that is spawned imports this module again.
_TRAIN_ENTRY = "from hpcjobs.train.__main__ import main\n\nif __name__ == '__main__':\n    main()\n"
_SUFFIXES = (".py", ".json")


def write_node_archive(path: Path) -> None:
    """Writes the zip application: ``hpcjobs.node`` and ``hpcjobs.run``, standard library only."""
    _write(path, _NODE_ENTRY, ("node", "run"))


def write_train_archive(path: Path) -> None:
    """Writes the training program for the image's Python, which brings torch and the rest."""
    _write(path, _TRAIN_ENTRY, ("run", "train", "data", "evaluate"))


def partial_archive(path: Path) -> Path:
    """Where an archive is written before it is whole."""
    return path.with_suffix(".partial")


def _write(path: Path, entry: str, parts: Iterable[str]) -> None:
    partial = partial_archive(path)
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__main__.py", entry)
        archive.writestr("hpcjobs/__init__.py", "")
        for part in parts:
            for source in sorted((_PACKAGE / part).rglob("*")):
                if source.suffix in _SUFFIXES:
                    archive.write(source, f"hpcjobs/{source.relative_to(_PACKAGE)}")
    partial.chmod(PRIVATE_FILE)
    partial.replace(path)
