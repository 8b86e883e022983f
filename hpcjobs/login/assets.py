"""Finds the files that ship with the package: configuration and templates."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def asset_dir(name: str) -> Path:
    """Directory ``name`` of the installed package, or of the source tree beside it.

    >>> asset_dir("conf").name
    'conf'
    """
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parent / name
