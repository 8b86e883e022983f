"""Files are private, complete or absent, and survive torn lines."""

import json
import os
import stat

import pytest

from hpcjobs.run.errors import InputError
from hpcjobs.run.files import Tail, append_line, make_private_dir, read_json, read_lines, write_text


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
def test_everything_is_private_whatever_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        make_private_dir(tmp_path / "run")
        write_text(tmp_path / "run" / "a", "x")
        append_line(tmp_path / "run" / "b", {})
    finally:
        os.umask(before)
    assert mode(tmp_path / "run") == 0o700
    assert mode(tmp_path / "run" / "a") == mode(tmp_path / "run" / "b") == 0o600


def test_a_failed_write_leaves_the_old_content_and_no_litter(tmp_path):
    target = tmp_path / "a"
    write_text(target, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(target, "new \udc80")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_torn_and_foreign_lines_are_passed_over(tmp_path):
    log = tmp_path / "log"
    append_line(log, {"step": 1})
    with log.open("ab") as file:
        file.write(b"\xff{\n" + json.dumps({"step": 2}).encode() + b"\n" + b'{"step": 3')
    assert [line["step"] for line in read_lines(log)] == [1, 2]
    assert list(read_lines(tmp_path / "none")) == []


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe"])
def test_an_unreadable_json_file_is_named(tmp_path, content):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.json"):
        read_json(path)


def test_a_growing_file_is_read_line_by_line_each_once(tmp_path):
    log = tmp_path / "log"
    tail = Tail(log)
    assert list(tail.new_lines()) == []
    append_line(log, 1)
    with log.open("ab") as file:
        file.write(b'{"half":')
    assert list(tail.new_lines()) == [1]
    with log.open("ab") as file:
        file.write(b" 2}\n")
    append_line(log, 3)
    assert list(tail.new_lines()) == [{"half": 2}, 3]
    assert list(tail.new_lines()) == []
