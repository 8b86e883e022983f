"""Packs broker and agent into one file that the nodes' own Python runs."""

import zipfile
from pathlib import Path

from hpcjobs.run.files import PRIVATE_FILE

_PACKAGE = Path(__file__).resolve().parents[1]
_ENTRY = "import sys\nfrom hpcjobs.node.main import main\nsys.exit(main())\n"


def write_node_archive(path: Path) -> None:
    """Writes the zip application: ``hpcjobs.node`` and ``hpcjobs.run``, standard library only."""
    partial = partial_archive(path)
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__main__.py", _ENTRY)
        archive.writestr("hpcjobs/__init__.py", "")
        for part in ("node", "run"):
            for source in sorted((_PACKAGE / part).glob("*.py")):
                archive.write(source, f"hpcjobs/{part}/{source.name}")
    partial.chmod(PRIVATE_FILE)
    partial.replace(path)


def partial_archive(path: Path) -> Path:
    """Where the archive is written before it is whole."""
    return path.with_suffix(".partial")
