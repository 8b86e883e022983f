"""Images for the tests of containers: made once, readable by any user."""

import stat
from pathlib import Path

import pytest
from container.small_image import make_sandbox, make_sif


@pytest.fixture(scope="session")
def open_tmp_path(tmp_path_factory) -> Path:
    """A directory that every user can reach; pytest's own belong to this one alone."""
    path = tmp_path_factory.mktemp("open")
    for directory in (path, *path.parents):
        mode = stat.S_IMODE(directory.stat().st_mode)
        if mode & 0o005 != 0o005:
            directory.chmod(mode | 0o055)
    return path


@pytest.fixture(scope="session")
def small_images(open_tmp_path, container_program) -> dict[str, Path]:
    """The same small image as a file and as a directory."""
    sandbox = make_sandbox(open_tmp_path / "small")
    return {"sandbox": sandbox, "sif": make_sif(sandbox, open_tmp_path / "small, image:1.sif")}
