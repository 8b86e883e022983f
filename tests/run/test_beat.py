"""The record of a heartbeat: whatever a reader sees is a whole beat or none."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcjobs.run.beat import PHASES, RECORD_BYTES, Beat, decode_beat, encode_beat, read_beat

count = st.integers(0, 2**63 - 1)
small = st.integers(0, 2**32 - 1)
seconds = st.floats(0, 1e12)
beats = st.builds(
    Beat, rank=small, pid=small, sequence=count, lap=count, point=small,
    phase=st.sampled_from(PHASES), micro=small, step=count, steps=count, at_s=seconds,
    step_s=st.none() | seconds, data_s=seconds, compute_s=seconds, resident_bytes=count,
    allocated_bytes=count, reserved_bytes=count, card_bytes=count,
)  # fmt: skip


@given(beats)
def test_a_beat_comes_back_as_it_was_written(beat):
    record = encode_beat(beat)
    assert len(record) == RECORD_BYTES
    assert decode_beat(record) == beat


@given(beats, beats, st.integers(1, RECORD_BYTES - 1))
def test_half_of_one_beat_and_half_of_the_next_is_no_beat(old, new, cut):
    torn = encode_beat(new)[:cut] + encode_beat(old)[cut:]
    assert decode_beat(torn) in (None, old, new)


@given(st.binary(max_size=2 * RECORD_BYTES))
def test_anything_else_is_no_beat(content):
    assert decode_beat(content) is None


@given(beats, st.integers(0, RECORD_BYTES * 8 - 1))
def test_a_flipped_bit_is_no_beat(beat, bit):
    record = bytearray(encode_beat(beat))
    record[bit // 8] ^= 1 << bit % 8
    assert decode_beat(bytes(record)) is None


WRITER = """
import os, sys
from hpcjobs.train.heartbeat import open_heartbeat
beats = open_heartbeat(os.environ, 0)
beats.lap(3, 7)
print("ready", flush=True)
while True:
    beats.lap(3, 7)
    for phase in ("data", "forward", "backward", "step"):
        beats.enter(phase)
"""


def test_a_reader_beside_a_busy_writer_sees_only_whole_beats_in_order(tmp_path):
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER],
        env={**os.environ, "HPCJOBS_BEATS": str(tmp_path)},
        stdout=subprocess.PIPE,
    )
    try:
        assert writer.stdout.readline() == b"ready\n"
        seen = [beat for _ in range(4000) if (beat := read_beat(tmp_path / "beat-0")) is not None]
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    assert len(seen) > 100
    sequences = [beat.sequence for beat in seen]
    assert sequences == sorted(sequences)
    assert sequences[-1] > sequences[0]
    assert {(beat.pid, beat.step, beat.steps) for beat in seen[5:]} == {(writer.pid, 3, 7)}


@pytest.mark.parametrize("content", [b"", b"x" * RECORD_BYTES, b"\0" * RECORD_BYTES])
def test_an_unfinished_file_is_no_beat(tmp_path, content):
    (tmp_path / "beat-0").write_bytes(content)
    assert read_beat(tmp_path / "beat-0") is None
    assert read_beat(tmp_path / "beat-1") is None
