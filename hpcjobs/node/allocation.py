"""A run inside an allocation of the user's own, such as one of salloc: saved before its end."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping

from hpcjobs.node import slurm
from hpcjobs.node.broker import run_broker
from hpcjobs.node.slurm import Run, run_command
from hpcjobs.run.launch import read_launch
from hpcjobs.run.layout import RunDir

_LOOK_EVERY_S = 30.0
"""An allocation's limit may be changed while it runs."""
# submitit hides all cards from a run without any; a batch script around us is not the run's.
_NOT_OURS = ("CUDA_VISIBLE_DEVICES", "ENVIRONMENT")


def run_in_allocation(run: RunDir, environment: Mapping[str, str]) -> int:
    """Runs the broker here and its agents on the allocation's nodes; nothing is requeued.

    Slurm tells an interactive allocation of its time limit only when that is over, so the
    broker is told by a clock, ``cluster.signal_lead_s`` before.
    """
    lead_s = float(read_launch(run.launch).signal_lead_s)
    clock = threading.Thread(
        target=tell_before_the_end, args=(environment["SLURM_JOB_ID"], lead_s), daemon=True
    )
    clock.start()
    kept = {name: value for name, value in environment.items() if name not in _NOT_OURS}
    return run_broker(run, kept)


def tell_before_the_end(job_id: str, lead_s: float, run: Run = run_command) -> None:
    """Sends SIGUSR2 to this process when ``lead_s`` seconds of the allocation are left."""
    while True:
        view = slurm.view_job(job_id, run)
        ends_at = view.ends_at if view is not None else None
        left = float("inf") if ends_at is None else ends_at - time.time() - lead_s
        if left <= 0:
            os.kill(os.getpid(), signal.SIGUSR2)
            return
        time.sleep(min(left, _LOOK_EVERY_S))
