"""What a beat costs a training process: python benchmarks/heartbeat.py [DIRECTORY].

Prints the median and the 99th percentile of a phase change, of a lap, and of a beat that looks at
the memory too, in microseconds. The directory is where the agent's scratch would be.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from hpcjobs.run.beat import BEATS_VARIABLE
from hpcjobs.train.heartbeat import open_heartbeat

BEATS = 20_000


def measure(what: str, action: Callable[[], object]) -> None:
    """Times an action many times and prints what it took."""
    took_us = []
    for _ in range(BEATS):
        began = time.perf_counter_ns()
        action()
        took_us.append((time.perf_counter_ns() - began) / 1000)
    took_us.sort()
    p99 = took_us[int(0.99 * BEATS)]
    print(f"{what:28} median {statistics.median(took_us):6.1f} us   99 % {p99:6.1f} us")


def main() -> None:
    """Times the beats of a process that nobody watches, and of one that is watched."""
    base = sys.argv[1] if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory(dir=base) as place:
        beats = open_heartbeat({BEATS_VARIABLE: str(Path(place))}, rank=0)
        silent = open_heartbeat({}, rank=0)
        measure("phase, nobody watches", lambda: silent.enter("forward"))
        measure("phase", lambda: beats.enter("data"))
        measure("still at work", beats.alive)
        measure("lap of the loop", lambda: beats.lap(1, 100))


if __name__ == "__main__":
    main()
