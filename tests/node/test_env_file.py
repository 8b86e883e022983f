"""Secrets come from a private file, or not at all."""

import pytest

from hpcjobs.node.env_file import read_env_file
from hpcjobs.run.errors import InputError


def write(path, text, mode):
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_lines_become_variables(tmp_path):
    name = write(tmp_path / "env", "# mine\n\nHF_TOKEN=a=b\n WANDB_API_KEY = c \n", 0o600)
    assert read_env_file(name) == {"HF_TOKEN": "a=b", "WANDB_API_KEY": "c"}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622, 0o666])
def test_a_file_that_others_can_reach_is_refused_without_being_shown(tmp_path, mode):
    name = write(tmp_path / "env", "HF_TOKEN=very-secret\n", mode)
    with pytest.raises(InputError, match="chmod 600") as error:
        read_env_file(name)
    assert "very-secret" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="none"):
        read_env_file(str(tmp_path / "none"))
