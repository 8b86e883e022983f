"""Secrets for the training: read from a private file at use, and written nowhere."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hpcjobs.run.errors import InputError


def read_env_file(name: str) -> dict[str, str]:
    """Reads NAME=VALUE lines; blank lines and lines that start with # are left out.

    Raises:
        InputError: the file is missing, belongs to somebody else, or others can read it.
    """
    path = Path(name).expanduser()
    try:
        status = path.stat()
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cluster.env_file: cannot read {path}: {error}") from error
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise InputError(f"cluster.env_file: {path} must be yours alone: chmod 600 {path}")
    lines = (line.strip() for line in text.splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}
