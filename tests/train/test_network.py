"""The timed all-reduce at the start, between two real processes; which link is named if it is slow."""

import dataclasses
import json
import os
import socket
import subprocess
import sys

import pytest

from hpcjobs.node.health_finding import Report
from hpcjobs.run.files import make_private_dir, read_lines, write_json
from hpcjobs.run.layout import RunDir
from hpcjobs.train.network import report_network, slowest_link

PROGRAM = """
import json, os, torch
from torch import distributed as dist
from hpcjobs.train.network import time_all_reduce
from hpcjobs.train.process import Process
dist.init_process_group("gloo")
rank = int(os.environ["RANK"])
alone = Process(0, 0, 1, torch.device("cpu"))
both = Process(rank, rank, 2, torch.device("cpu"))
print(json.dumps([time_all_reduce(alone), time_all_reduce(both)]), flush=True)
os._exit(0)
"""


@pytest.fixture
def run(tmp_path):
    run = RunDir(tmp_path)
    make_private_dir(run.attempt(1).path)
    return run


def write_reports(run, *links):
    for node, (source, mib_s) in enumerate(links):
        report = Report(node, f"host{node}", link_from=source, link_mib_s=mib_s)
        write_json(run.attempt(1).health(node), dataclasses.asdict(report))


def test_the_slowest_link_of_the_look_is_named(run):
    assert slowest_link(run.attempt(1)) is None
    write_reports(run, (2, 900.0), (0, 3.2), (1, 700.0), (None, None))
    run.attempt(1).health(7).write_text("torn")
    assert slowest_link(run.attempt(1)) == "host0 to host1: 3 MiB/s"


@pytest.mark.parametrize(("mib_s", "events"), [(None, 0), (500.0, 0), (1.5, 1)])
def test_only_a_slow_network_is_an_event(run, mib_s, events):
    write_reports(run, (1, 900.0), (0, 3.2))
    report_network(run, 1, mib_s, 5.0)
    found = list(read_lines(run.events))
    assert len(found) == events
    for event in found:
        assert event["slowest_link"] == "host0 to host1: 3 MiB/s"


def test_two_processes_time_their_all_reduce_and_one_has_none():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM], env={**shared, "RANK": str(rank)},
            stdout=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    for process in started:
        alone, both = json.loads(process.communicate(timeout=120)[0].splitlines()[-1])
        assert alone is None
        assert both > 1
