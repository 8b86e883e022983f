"""Records memory_traces.csv: python tests/run/record_memory_traces.py (some two minutes).

Real processes allocate in the ways that trainings do, and wait after every step; one of them is a
training. Each is looked at as the watch looks, but after every third step instead of every half
minute.
"""

import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hpcjobs.node.proc import families
from hpcjobs.run.files import read_lines

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny import tiny_words, write_tiny_data

HERE = Path(__file__).parent
PROGRAM = """
import random, sys
random.seed(7)
kept, step, what = [], 0, sys.argv[1]
base = bytearray(30 << 20)
while step < 400:
    step += 1
    if what == "leak":
        kept.append(bytearray(1 << 20))
    elif what == "leak_in_lumps" and step % 20 == 0:
        kept.append(bytearray(20 << 20))
    elif what == "leak_under_a_sawtooth":
        kept.append(bytearray(1 << 20))
        waste = [bytearray(1 << 20) for _ in range(step % 25)]
    elif what == "sawtooth":
        kept = [] if step % 25 == 0 else [*kept, bytearray(2 << 20)]
    elif what == "long_sawtooth":
        kept = [] if step % 110 == 0 else [*kept, bytearray(1 << 20)]
    elif what == "warm_up" and step < 60:
        kept.append(bytearray(4 << 20))
    elif what == "cache_that_fills":
        kept.append(bytearray(int((6 << 20) * 0.98 ** step)))
    elif what == "one_jump" and step == 200:
        kept.append(bytearray(200 << 20))
    elif what == "validation" and step % 80 < 8:
        waste = bytearray(150 << 20)
    elif what == "longest_sample":
        need = int(random.lognormvariate(0, 0.6) * (20 << 20))
        base = base if len(base) >= need else bytearray(need)
    elif what == "random_sizes":
        kept = [*kept[-100:], bytearray(int(random.expovariate(1) * (1 << 19)))]
    waste = None if what != "validation" or step % 80 >= 8 else waste
    print(step, flush=True)
    sys.stdin.readline()
"""
KINDS = (
    "leak leak_in_lumps leak_under_a_sawtooth sawtooth long_sawtooth warm_up cache_that_fills "
    "one_jump validation longest_sample random_sizes"
).split()


def held_bytes(pid: int) -> int:
    return sum(view.memory_bytes for view in families([pid])[pid])


def of_program(what: str) -> list[tuple[int, float, int]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, what], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdin
    assert process.stdout
    rows = []
    for line in process.stdout:
        step = int(line)
        if step > 3 and step % 3 == 0:
            rows.append((step, 0.5 * step, held_bytes(process.pid)))
        process.stdin.write("\n")
        process.stdin.flush()
    process.wait()
    return rows


def of_training() -> list[tuple[int, float, int]]:
    with tempfile.TemporaryDirectory() as place:
        run, data = Path(place, "run"), write_tiny_data(Path(place, "data"))
        words = tiny_words(data, run_dir=run, **{"train.steps": 400, "data.workers": 2})
        command = subprocess.Popen(
            [sys.executable, "-m", "hpcjobs.submit", *words], stdout=subprocess.DEVNULL
        )
        rows: list[tuple[int, float, int]] = []
        while command.poll() is None:
            steps = [x["step"] for x in read_lines(run / "metrics.jsonl") if x["kind"] == "train"]
            pids = [pid for pid in Path("/proc").glob("[0-9]*") if _trains(pid, run)]
            if steps and steps[-1] > 3 and pids:
                held = families([int(pids[0].name)])[int(pids[0].name)]
                rows.append((steps[-1], time.monotonic(), sum(v.memory_bytes for v in held)))
            time.sleep(0.05)
    return [row for row in rows if row[2]]


def _trains(pid: Path, run: Path) -> bool:
    try:
        words = (pid / "cmdline").read_bytes().split(b"\0")
        parent = int((pid / "stat").read_text().rpartition(")")[2].split()[1])
        parent_words = Path(f"/proc/{parent}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"--attempt" in words and str(run).encode() in words and b"agent" in parent_words


def main() -> None:
    with (HERE / "memory_traces.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["trace", "step", "at_s", "held_kib"])
        for what in [*KINDS, "training"]:
            rows = of_training() if what == "training" else of_program(what)
            rows = rows[:: max(1, len(rows) // 130)]
            for step, at_s, held in rows:
                writer.writerow([what, step, f"{at_s - rows[0][1]:.3f}", held >> 10])


if __name__ == "__main__":
    main()
