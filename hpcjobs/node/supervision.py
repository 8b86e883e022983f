"""The agent's watch over its processes, from their start to the end of the last."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from hpcjobs.node.container import start_failure
from hpcjobs.node.memory_kills import memory_kills
from hpcjobs.node.stacks import request_stacks
from hpcjobs.run.beat import beat_path
from hpcjobs.run.conclude import Trace, trace_of
from hpcjobs.run.files import write_json, write_text
from hpcjobs.run.launch import Launch
from hpcjobs.run.layout import Attempt
from hpcjobs.run.node_end import NodeEnd, write_node_end
from hpcjobs.run.notices import Notices
from hpcjobs.run.verdict import Verdict, write_verdict

POLL_S = 0.1
PEER_GRACE_S = 10.0
"""How long the others may go on after one process failed: time to write what they saw."""
KNOWN_GRACE_S = 1.0
"""The same once it is known who is to blame: a word of its own, or a death without one."""
STACKS_WITHIN_S = 2.0


class Supervision:
    """One node's processes in one attempt."""

    def __init__(
        self,
        attempt: Attempt,
        node: int,
        launch: Launch,
        processes: Mapping[int, subprocess.Popen[bytes]],
        notices: Notices,
        scratch: Path,
    ) -> None:
        """Begins with processes that were just started."""
        self._attempt, self._node, self._launch = attempt, node, launch
        self._processes, self._notices = dict(processes), notices
        self._beats = scratch / "beats"
        self._parent = os.getppid()
        self._exits: dict[int, int | None] = {}
        self._killed: set[int] = set()
        self._told: set[int] = set()
        self._failed_at: float | None = None
        self._kill_at_s: float | None = None
        self._noticed = False
        self._kills_before = memory_kills()

    def run(self, is_hanging: Callable[[], bool]) -> int:
        """Waits for all processes; returns 0 if all of them ended well.

        Args:
            is_hanging: asked at every turn; once it is true the processes are killed.
        """
        while self._take_exits():
            self._pass_notice_on()
            if self._notices.forced:
                self._dump_stacks()
            if self._notices.forced or is_hanging() or self._grace_is_over():
                self._kill_all()
            time.sleep(POLL_S)
        self._write_end(complete=True)
        self._linger()
        return 0 if all(code == 0 for code in self._exits.values()) else 1

    def _living(self) -> dict[int, subprocess.Popen[bytes]]:
        return {rank: p for rank, p in self._processes.items() if rank not in self._exits}

    def _take_exits(self) -> bool:
        """Notes who has ended; returns whether anybody lives."""
        ended = {rank: process.poll() for rank, process in self._living().items()}
        new = {rank: code for rank, code in ended.items() if code is not None}
        for rank, code in new.items():
            self._exits[rank] = None if rank in self._killed else code
            if self._exits[rank]:
                self._note_failure(rank, code)
        if new and self._living():
            self._write_end(complete=False)
        return bool(self._living())

    def _note_failure(self, rank: int, code: int) -> None:
        """Sets the moment at which the others are killed; sooner once the culprit is known."""
        now_s = time.monotonic()
        if self._failed_at is None:
            self._failed_at = time.time()
        is_echo = self._trace(rank, code).is_echo
        kill_at_s = now_s + (PEER_GRACE_S if is_echo else KNOWN_GRACE_S)
        self._kill_at_s = min(kill_at_s, self._kill_at_s or kill_at_s)

    def _trace(self, rank: int, code: int) -> Trace:
        """What a failed process left; a container that did not start cannot speak for itself."""
        trace = trace_of(self._attempt, rank, code)
        why = start_failure(self._launch, code, self._attempt.rank_log(rank))
        if trace.said is None and why is not None:
            said = Verdict("failed", why, rank=rank)
            with contextlib.suppress(OSError):
                write_verdict(self._attempt.rank_verdict(rank), said)
            return replace(trace, said=said)
        return trace

    def _grace_is_over(self) -> bool:
        return self._kill_at_s is not None and time.monotonic() > self._kill_at_s

    def _pass_notice_on(self) -> None:
        """Tells every process once, and the broker, that the end is near.

        A container's runtime dies of a signal before the process in it listens, so such a
        process is told once it has begun to beat.
        """
        orphaned = os.getppid() != self._parent
        if not (self._notices.stop or orphaned):
            return
        if not self._noticed:
            self._noticed = True
            heard = self._notices.received or ["the broker is gone"]
            with contextlib.suppress(OSError):
                write_json(
                    self._attempt.notice(self._node), {"time": time.time(), "signal": heard[0]}
                )
        for rank, process in self._living().items():
            if rank not in self._told and self._listens(rank):
                self._told.add(rank)
                process.send_signal(signal.SIGUSR2)

    def _listens(self, rank: int) -> bool:
        return self._launch.container is None or beat_path(self._beats, rank).exists()

    def _dump_stacks(self) -> None:
        """Asks the processes where they are, so that a forced end can be explained."""
        pids = {rank: process.pid for rank, process in self._living().items()}
        requests = request_stacks(self._beats, pids)
        deadline_s = time.monotonic() + STACKS_WITHIN_S
        while time.monotonic() < deadline_s:
            if all(request.settled(time.monotonic()) for request in requests.values()):
                break
            time.sleep(POLL_S)
        for rank, request in requests.items():
            text = "".join(f"--- {dump.file}\n{dump.text}" for dump in request.dumps())
            with contextlib.suppress(OSError):
                write_text(self._attempt.stacks(rank), text)

    def _kill_all(self) -> None:
        for rank, process in self._living().items():
            self._killed.add(rank)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # loader processes too

    def _linger(self) -> None:
        """Stays a moment where all that is known is an echo: the culprit's node may yet speak.

        The first agent that fails ends the step on all nodes.
        """
        if self._launch.nodes == 1 or self._notices.stop or self._kill_at_s is None:
            return
        while time.monotonic() < self._kill_at_s and not self._notices.stop:
            time.sleep(POLL_S)

    def _write_end(self, complete: bool) -> None:
        kills = memory_kills()
        before = self._kills_before
        end = NodeEnd(
            host=os.environ.get("SLURMD_NODENAME", os.uname().nodename),
            exits=dict(sorted(self._exits.items())),
            complete=complete,
            failed_at=self._failed_at,
            oom_kills=None if kills is None or before is None else kills - before,
            signals=tuple(self._notices.received),
            forced=self._notices.forced,
        )
        write_node_end(self._attempt.exit_codes(self._node), end)
