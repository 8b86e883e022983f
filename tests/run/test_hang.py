"""Who is to blame for a hang: the one behind, never those that wait for it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcjobs.run.beat import Beat
from hpcjobs.run.hang import blame, conclude_hang
from hpcjobs.run.hang_report import GONE, HangReport, RankView, read_reports
from hpcjobs.run.hang_report import write_report as write
from hpcjobs.run.layout import Attempt
from hpcjobs.run.stack_dump import Frame, main_thread

WAITING = Frame("/env/torch/distributed/distributed_c10d.py", 3252, "all_reduce")
WORKING = Frame("/env/PIL/Image.py", 3218, "open")
READING_A_RESULT = Frame("/run/train.zip/hpcjobs/train/loop.py", 209, "_sum_over_ranks")


def view(rank, lap=9, point=3, state="S", frame=None, phase="collective", card=0, host="node1"):
    beat = Beat(
        rank, 100 + rank, 77, lap, point, phase, 0, lap - 1, 50, 1.0, 0.5, 0.0, 0.0, 1, 0, 0, card
    )
    return RankView(rank, host, beat, 12.0, state, frame)


CASES = {
    "one is behind": ([view(0), view(1, point=2, phase="data")], 2, (1,)),
    "a lap behind": ([view(0, lap=10, point=1), view(1, lap=9, point=8)], 2, (1,)),
    "several are behind": ([view(0), view(1, point=2), view(2, point=2)], 3, (1, 2)),
    "only the last of three": ([view(0), view(1, point=2), view(2, point=1)], 3, (2,)),
    "behind, but one of two waits": (
        [view(0), view(1, point=2, frame=WAITING), view(2, point=2, frame=WORKING)], 3, (2,)),
    "stopped at the same point": ([view(0), view(1, state="T")], 2, (1,)),
    "stopped ahead of its victims": ([view(0), view(1, point=4, state="T")], 2, (1,)),
    "a traced one": ([view(0), view(1, state="t")], 2, (1,)),
    "gone before its work was done": ([view(0), view(1, state=GONE)], 2, (1,)),
    "one never began": ([view(0), replace(view(1), beat=None)], 2, (1,)),
    "behind while another is done": (
        [view(0, phase="done", state=GONE), view(1, phase="export")], 2, (1,)),
    "waits for a disk": ([view(0), view(1, state="D")], 2, (1,)),
    "elsewhere at the same point": ([view(0, frame=WAITING), view(1, frame=WORKING)], 2, (1,)),
    "alone": ([view(0)], 1, (0,)),
    "all wait": ([view(0, frame=WAITING), view(1, frame=WAITING)], 2, ()),
    "all work": ([view(0, frame=WORKING), view(1, frame=WORKING)], 2, ()),
    "all wait for a disk": ([view(0, state="D"), view(1, state="D")], 2, ()),
    "no stack tells": ([view(0), view(1)], 2, ()),
    "one stack alone does not tell": ([view(0, frame=WORKING), view(1)], 2, ()),
    "a card's result is waited for": (
        [view(0, frame=READING_A_RESULT, card=80), view(1, frame=WAITING, card=80)], 2, ()),
    "with a card, but nowhere near it": (
        [view(0, frame=WORKING, card=80), view(1, frame=WAITING, card=80)], 2, (0,)),
    "a node says nothing": ([view(0, point=2), view(1)], 4, ()),
    "a node says nothing, but one is stopped": ([view(0, state="T"), view(1)], 4, (0,)),
    "all are done": ([view(0, phase="done", state=GONE), view(1, phase="done", state=GONE)], 2, ()),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_culprit_is_named_and_no_other(case):
    views, world_size, culprits = CASES[case]
    assert blame(views, world_size).culprits == culprits
    assert blame(views[::-1], world_size).culprits == culprits


def test_an_unknown_culprit_says_why():
    assert blame([view(0), view(1)], 2).why == "nobody is behind"
    assert blame([view(0), view(1)], 4).why == "nothing is known of ranks 2 and 3"


places = st.tuples(st.integers(1, 6), st.integers(0, 9))
frames = st.sampled_from([None, WAITING, WORKING, READING_A_RESULT])


@st.composite
def trainings(draw):
    """Ranks anywhere in a training, in states that a living process can have."""
    count = draw(st.integers(2, 8))
    return [
        view(rank, *draw(places), state=draw(st.sampled_from("RSD")), frame=draw(frames))
        for rank in range(count)
    ]


@given(trainings())
def test_whoever_is_ahead_of_another_is_never_named(views):
    least = min(v.place for v in views)
    named = blame(views, len(views)).culprits
    assert all(v.place == least for v in views if v.rank in named)
    if any(v.place > least for v in views):
        assert named


@given(trainings(), st.randoms())
def test_the_order_of_the_reports_does_not_matter(views, random):
    shuffled = list(views)
    random.shuffle(shuffled)
    assert blame(shuffled, len(views)) == blame(views, len(views))


@given(trainings())
def test_a_rank_that_is_seen_to_wait_beside_one_that_is_not_is_never_named(views):
    level = [replace(v, beat=replace(v.beat, lap=1, point=1), state="S") for v in views]
    named = blame(level, len(level)).culprits
    assert not any(v.frame == WAITING for v in level if v.rank in named)


@given(trainings(), st.data())
def test_without_word_of_every_rank_nobody_that_lives_is_named(views, data):
    missing = data.draw(st.integers(0, len(views) - 1))
    known = [v for v in views if v.rank != missing]
    assert blame(known, len(views)).culprits == ()


@given(trainings(), st.data())
def test_one_stopped_rank_is_the_culprit_wherever_the_others_are(views, data):
    stopped = data.draw(st.integers(0, len(views) - 1))
    views[stopped] = replace(views[stopped], state="T")
    assert blame(views, len(views)).culprits == (stopped,)


def report(attempt, node, *views):
    write(attempt.hang(node), HangReport(node, f"node{node + 1}", views))


def test_reports_of_several_nodes_make_one_verdict(tmp_path):
    attempt = Attempt(tmp_path)
    report(attempt, 0, view(0, frame=WAITING), view(1, frame=WAITING))
    stuck = view(3, point=2, phase="data", frame=WORKING, host="node2")
    report(attempt, 1, view(2, frame=WAITING, host="node2"), stuck)
    verdict = conclude_hang(attempt, 4)
    assert (verdict.status, verdict.cause, verdict.rank, verdict.node) == (
        "failed", "hang", 3, "node2")  # fmt: skip
    assert verdict.reason == (
        f"hang: rank 3 on node2 silent for 12 s in data after step 8 (in open at "
        f"PIL/Image.py:3218) (behind the others); ranks 0, 1 and 2 waited; stacks in "
        f"{tmp_path}/stacks-rank-3.txt"
    )
    assert verdict.root == "hang: data in open (PIL/Image.py)"


def test_culprits_on_several_nodes_put_no_node_in_question(tmp_path):
    attempt = Attempt(tmp_path)
    report(attempt, 0, view(0), view(1, point=2))
    report(attempt, 1, view(2, point=2, host="node2"), view(3, host="node2"))
    verdict = conclude_hang(attempt, 4)
    assert (verdict.rank, verdict.node) == (1, None)
    assert "rank 2 on node2" in verdict.reason


def test_without_a_report_there_was_no_hang_and_a_torn_one_is_no_evidence(tmp_path):
    attempt = Attempt(tmp_path)
    assert conclude_hang(attempt, 2) is None
    attempt.hang(0).write_text('{"node": 0')
    attempt.hang(1).write_text('{"node": 1}')
    assert read_reports(attempt) == []
    assert conclude_hang(attempt, 2) is None


def test_reports_are_read_as_they_were_written(tmp_path):
    attempt = Attempt(tmp_path)
    views = (view(0, frame=WAITING), replace(view(1), beat=None, loaders=("7 in state T",)))
    report(attempt, 0, *views)
    assert read_reports(attempt) == [HangReport(0, "node1", views)]


DUMP = """Thread 0x00007f1 [pt_data_pin] (most recent call first):
  File "/env/queue.py", line 171 in get

Current thread 0x00007f2 (most recent call first):
  File "/env/PIL/Image.py", line 3218 in open
  File "/env/it's a $HOME/loop.py", line ??? in <module>
"""


def test_the_main_thread_is_the_last_of_a_dump():
    assert [frame.function for frame in main_thread(DUMP)] == ["open", "<module>"]
    assert main_thread(DUMP)[1] == Frame("/env/it's a $HOME/loop.py", None, "<module>")
    assert main_thread("") == []


@given(st.text())
def test_any_text_is_a_dump_with_or_without_frames(text):
    assert isinstance(main_thread(text), list)
