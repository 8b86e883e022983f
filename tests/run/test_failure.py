"""The line that tells, and what of it is the same the next time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcjobs.run.failure import is_echo, last_error_line, one_clean_line, root_of


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("RuntimeError: bad value at 0x7f1200", "RuntimeError: bad value at 0xdeadbeef"),
        ("OSError: cannot open /scratch/u1/a.png", "OSError: cannot open /scratch/u2/b/c.png"),
        ("ValueError: step 17 of 20", "ValueError: step 3 of 9"),
        ("Error from 10.0.0.7:29500", "Error from 10.0.1.12:40112"),
        ("\x1b[31mKeyError: 'x'\x1b[0m", "KeyError: 'x'\nand more"),
    ],
)
def test_what_differs_from_time_to_time_is_masked(one, other):
    assert root_of(one) == root_of(other)


@pytest.mark.parametrize(
    ("one", "other"), [("ValueError: a", "KeyError: a"), ("no space left", "file is missing")]
)
def test_different_failures_stay_different(one, other):
    assert root_of(one) != root_of(other)


@given(st.text())
def test_any_text_becomes_one_line_of_bounded_length(text):
    for line in (one_clean_line(text), root_of(text)):
        assert not any(ord(character) < 32 for character in line)
        assert len(line) <= 400


@pytest.mark.parametrize(
    ("text", "echo"),
    [
        (
            "RuntimeError: [../third_party/gloo/pair.cc:534] Connection closed by peer [127.0.0.1]:5",
            True,
        ),
        ("torch.distributed.DistBackendError: NCCL communicator was aborted on rank 3.", True),
        ("[Rank 2] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=5)", True),
        ("RuntimeError: Timed out waiting 1800000ms for recv operation to complete", True),
        ("ConnectionResetError: [Errno 104] Connection reset by peer", True),
        ("ValueError: could not broadcast", False),
        ("torch.OutOfMemoryError: CUDA out of memory.", False),
        ("RuntimeError: CUDA error: an illegal memory access was encountered", False),
    ],
)
def test_a_complaint_about_a_peer_is_told_from_a_failure(text, echo):
    assert is_echo(text) is echo


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("", None),
        ("step 1\nstep 2\n", None),
        ("Traceback (most recent call last):\n  File x\nValueError: 3\nstep 9\n", "ValueError: 3"),
        ("RuntimeError: CUDA error: bad\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1 error\n",
         "RuntimeError: CUDA error: bad"),
        ("FATAL:   image is gone\n\n\n", "FATAL:   image is gone"),
        ("step 1\nError: one\rstep 2\n", "Error: one"),
        ("Error: a\x07b\u202ec\n", "Error: a b c"),
    ],
)  # fmt: skip
def test_the_telling_line_of_a_log_is_found(tmp_path, log, line):
    path = tmp_path / "rank-0.log"
    path.write_bytes(log.encode())
    assert last_error_line(path) == line


def test_of_a_huge_log_only_the_end_is_read(tmp_path):
    path = tmp_path / "rank-0.log"
    with path.open("wb") as file:
        file.write(b"ValueError: early\n")
        file.seek(1 << 30)
        file.write(b"\nstep 7\n")
    assert last_error_line(path) is None
    with path.open("ab") as file:
        file.write(b"KeyError: 'late'\nstep 8\n")
    assert last_error_line(path) == "KeyError: 'late'"
    assert last_error_line(tmp_path / "missing") is None
