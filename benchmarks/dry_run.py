"""Times a cold ``dry_run=true`` against Hydra's bare import and composition of the same config.

Both are run in turn, in fresh processes, so that what else the machine does hits both alike.
The aim is a ratio of at most 3.

    python benchmarks/dry_run.py [REPEATS]
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONF = Path(__file__).resolve().parents[1] / "conf"
BARE = f"""
import hydra
with hydra.initialize_config_dir({str(CONF)!r}, version_base="1.3"):
    hydra.compose("config", ["+experiment=mgm_lora"])
"""
COMMANDS = {
    "bare_compose_s": [sys.executable, "-c", BARE],
    "dry_run_s": [
        sys.executable, "-m", "hpcjobs.submit", "+experiment=mgm_lora", "dry_run=true",
    ],
}  # fmt: skip


def timed(command: list[str], cwd: str) -> float:
    """Wall-clock seconds of a command in a fresh process."""
    started = time.perf_counter()
    subprocess.run(command, cwd=cwd, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Prints the medians and their ratio as JSON."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as cwd:
        for command in COMMANDS.values():
            timed(command, cwd)  # once unmeasured: compiled files and the page cache
        for _ in range(repeats):
            for name, command in COMMANDS.items():
                seconds[name].append(timed(command, cwd))
    medians = {name: round(statistics.median(values), 3) for name, values in seconds.items()}
    ratio = round(medians["dry_run_s"] / medians["bare_compose_s"], 2)
    print(json.dumps({**medians, "ratio": ratio, "aim": 3.0, "repeats": repeats}))


if __name__ == "__main__":
    main()
