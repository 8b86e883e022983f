"""One quick look at every node before an attempt starts on it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from hpcjobs.node.health_finding import Conclusion, Finding, Report, judge, read_report
from hpcjobs.node.health_node import local_findings
from hpcjobs.node.health_ring import Link, Ring, join_ring, new_ring
from hpcjobs.node.slurm import run_command
from hpcjobs.run.bad_node_files import add_evidence
from hpcjobs.run.bad_nodes import Evidence
from hpcjobs.run.errors import HpcjobsError, InputError
from hpcjobs.run.events import record_event
from hpcjobs.run.files import read_json, write_json
from hpcjobs.run.health_config import HealthSettings
from hpcjobs.run.launch import Launch, read_launch
from hpcjobs.run.layout import RunDir

_POLL_S = 0.05
_KILL_AFTER_S = 5.0


def check_allocation(
    run: RunDir,
    launch: Launch,
    number: int,
    environment: Mapping[str, str],
    stop: Callable[[], bool],
) -> dict[str, str]:
    """Looks at all nodes of the job at once; returns those on which nothing may start, and why.

    The reports stay in the attempt's directory, an event sums them up, and what was found against
    a node is remembered for all runs. Outside Slurm there is nothing to choose from, so nothing is
    looked at. A look that fails as a whole says nothing of any node.

    Args:
        run: the run.
        launch: its shape and settings.
        number: the attempt that is about to start.
        environment: of the broker.
        stop: asked now and then; once it is true the look is given up.
    """
    settings = settings_of(launch)
    if "SLURM_JOB_ID" not in environment or not settings.enabled:
        return {}
    began = time.monotonic()
    hosts = expand_hosts(environment.get("SLURM_JOB_NODELIST", ""))
    write_json(run.attempt(number).ring, asdict(new_ring(hosts[0], _free_port(), len(hosts))))
    _run_step(_step_command(run, len(hosts), number), environment, settings.timeout_s, stop)
    if stop():
        return {}
    reports = _reports(run, number, len(hosts))
    conclusion = judge(hosts, reports, settings)
    seconds = round(time.monotonic() - began, 3)
    _remember(run, launch, number, hosts, conclusion)
    record_event(run, "health", attempt=number, nodes=hosts, seconds=seconds, **asdict(conclusion))
    return conclusion.unfit


def run_health(run: RunDir, number: int, environment: Mapping[str, str]) -> int:
    """Looks at this node, as one task of the step; writes its report, twice if others are met."""
    began = time.monotonic()
    launch = read_launch(run.launch)
    settings = settings_of(launch)
    node = int(environment.get("SLURM_NODEID", "0"))
    path = run.attempt(number).health(node)
    meeting = _Meeting(Ring(**read_json(run.attempt(number).ring)), node, settings)
    findings = local_findings(run, launch.gpus_expected, settings, environment)
    host = environment.get("SLURMD_NODENAME", os.uname().nodename)
    report = Report(node, host, tuple(findings), seconds=_since(began))
    write_json(path, asdict(report))
    link = meeting.result()
    if link is not None:
        findings += network_findings(link, settings)
        report = replace(
            report, findings=tuple(findings), clock_offset_s=link.clock_offset_s,
            link_from=link.source, link_mib_s=link.mib_s, seconds=_since(began),
        )  # fmt: skip
        write_json(path, asdict(report))
    return 0


class _Meeting:
    """This node's part in the ring, in the background: the others may look at themselves longer."""

    def __init__(self, ring: Ring, node: int, settings: HealthSettings) -> None:
        self._link: Link | None = None
        self._thread = threading.Thread(
            target=self._join, args=(ring, node, settings.timeout_s / 3), daemon=True
        )
        if ring.nodes > 1:
            self._thread.start()

    def result(self) -> Link | None:
        """Waits for it; None where there is no other node."""
        if self._thread.ident is not None:
            self._thread.join()
        return self._link

    def _join(self, ring: Ring, node: int, timeout_s: float) -> None:
        self._link = join_ring(ring, node, timeout_s)


def settings_of(launch: Launch) -> HealthSettings:
    """The settings that travel with a run; those of another version are an error.

    Raises:
        InputError: they cannot be read.
    """
    try:
        return HealthSettings(**launch.health)
    except TypeError as error:
        raise InputError(f"the health settings are of another version: {error}") from error


def network_findings(link: Link, settings: HealthSettings) -> list[Finding]:
    """What a node's part in the ring says."""
    if link.mib_s is None:
        if link.error is not None:
            return [Finding("network", "bad", link.error)]
        alone = f"nodes {', '.join(map(str, link.missing))} did not come to the ring"
        return [Finding("link", "unknown", alone)]
    limit = settings.link_mib_s
    said = f"{link.mib_s:.0f} MiB/s from node {link.source}, at least {limit:g} needed"
    if link.error is not None:
        said = f"from node {link.source}: {link.error}"
    bad = link.error is not None or link.mib_s < limit
    return [Finding("link", "bad" if bad else "ok", said, round(link.mib_s, 1), limit)]


def expand_hosts(node_list: str) -> list[str]:
    """The hosts of a node list, in the order of SLURM_NODEID."""
    answer = run_command(["scontrol", "show", "hostnames", node_list])
    return (answer.stdout.split() if answer.returncode == 0 else []) or [node_list]


def _step_command(run: RunDir, nodes: int, number: int) -> list[str]:
    step = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"]
    # Shared with whatever comes after it, should a node not answer and the step linger.
    step += ["--overlap", "--cpus-per-task=1", "--export=ALL", "--kill-on-bad-exit=0"]
    step += ["--quit-on-interrupt", "--job-name=health"]
    return [
        *step,
        sys.executable,
        "-Iu",
        str(run.node_archive),
        "health",
        str(run.path),
        str(number),
    ]


def _run_step(
    command: Sequence[str],
    environment: Mapping[str, str],
    timeout_s: float,
    stop: Callable[[], bool],
) -> None:
    """Runs the look to its end, to the time limit, or until the job is told to stop."""
    deadline = time.monotonic() + timeout_s
    with subprocess.Popen(
        list(command), stdin=subprocess.DEVNULL, env=dict(environment), start_new_session=True
    ) as step:
        while step.poll() is None and time.monotonic() < deadline and not stop():
            time.sleep(_POLL_S)
        if step.poll() is None:
            step.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                step.wait(_KILL_AFTER_S)
            step.kill()


def _reports(run: RunDir, number: int, nodes: int) -> dict[int, Report]:
    reports = {}
    for node in range(nodes):
        with contextlib.suppress(HpcjobsError, TypeError, KeyError):
            reports[node] = read_report(read_json(run.attempt(number).health(node)))
    return reports


def _remember(
    run: RunDir, launch: Launch, number: int, hosts: Sequence[str], conclusion: Conclusion
) -> None:
    """Writes evidence; a store that cannot be written must not stop a run."""
    found = [("health", conclusion.unfit), ("link", conclusion.suspected)]
    for kind, nodes in found:
        for host, reason in nodes.items():
            remember(run, launch, Evidence(
                host, time.time(), kind, reason, str(run.path), number, hosts.index(host)
            ))  # fmt: skip


def remember(run: RunDir, launch: Launch, evidence: Evidence) -> None:
    """Adds evidence to the store, and an event; a store that cannot be written stops no run."""
    if launch.bad_nodes is None:
        return
    refused = None
    try:
        add_evidence(Path(launch.bad_nodes), evidence)
    except (HpcjobsError, OSError) as error:
        refused = str(error)
    record_event(
        run, "bad_node", attempt=evidence.attempt, node=evidence.node, evidence=evidence.kind,
        reason=evidence.reason, **({"not_remembered": refused} if refused else {}),
    )  # fmt: skip


def _free_port() -> int:
    """A port that is free here, on the first node, where the ring meets."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _since(began: float) -> float:
    return round(time.monotonic() - began, 3)
