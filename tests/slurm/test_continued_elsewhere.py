"""How runs go on after their jobs on a real Slurm: each way of losing one, and each obstacle.

Slow: a dozen trainings are cut, and Slurm polls limits every 30 s. They are cut side by side and
mostly wait, so that all of them together take about as long as the run in chunks.
"""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cluster.slurm_cluster import SlurmCluster
from runs import assert_equal_runs, command, submit, trained_steps, wait_until
from tiny import tiny_words, write_tiny_data

from hpcjobs.run.bad_node_files import add_evidence
from hpcjobs.run.bad_nodes import Evidence
from hpcjobs.run.files import read_json, read_lines
from hpcjobs.run.layout import RunDir

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.timeout(1200)]

STEPS = 80
PARTITIONS = """
PartitionName=nograce Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE GraceTime=0 MaxTime=7-0
PartitionName=cancel Nodes=ALL PriorityTier=1 PreemptMode=CANCEL GraceTime=0 MaxTime=7-0
PartitionName=short Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=2
"""
NO_REQUEUE = {"cluster.requeue": "false"}
# A disk that takes its time until the run has been cut.
SLOW_DISK = """
import os, time
import PIL.Image
_open = PIL.Image.open
def slow_open(*words, **options):
    if os.path.exists(os.environ["SLOW"]):
        time.sleep(0.2)
    return _open(*words, **options)
PIL.Image.open = slow_open
"""


@dataclass
class Story:
    """A run, what is done to it, and what it left."""

    changes: dict[str, object]
    setup: tuple[str, ...] = ()
    is_slow: bool = True
    run: RunDir = field(init=False)
    slow: Path = field(init=False)
    """While this file is there, its disk is slow."""

    def events(self, *kinds: str) -> list[dict]:
        return [event for event in read_lines(self.run.events) if event["kind"] in kinds]

    def jobs(self) -> list[str]:
        """The job of each attempt."""
        return [event["job_id"] for event in self.events("attempt_started")]

    def nodes(self) -> list[str]:
        """The node of each attempt."""
        return [event["nodes"][0] for event in self.events("attempt_started")]

    def is_training(self) -> bool:
        return len(trained_steps(self.run)) >= 5

    def ends(self) -> list[str]:
        """Why each attempt ended, for those of which it is known."""
        return [event["cause"] for event in self.events("attempt_ended")]


@dataclass
class World:
    """The cluster, the place of the runs, and their data."""

    cluster: SlurmCluster
    place: Path
    data: Path

    def words(self, name: str, story: Story, **changes: object) -> list[str]:
        story.run, story.slow = RunDir(self.place / name), self.place / f"{name}.slow"
        shape = {"parallel.gpus_per_node": 1, "cluster.cpus_per_node": 1, "train.steps": STEPS}
        shape |= {"train.checkpoint.every_steps": 20, "run_dir": story.run.path}
        return tiny_words(self.data, **{**shape, **changes, **story.changes})

    def start(self, name: str, story: Story) -> None:
        slow = self.place / f"{name}.slow"
        setup = [f"export PYTHONPATH={self.place}/slow SLOW={slow}", *story.setup]
        quoted = ",".join(f'"{line}"' for line in setup)
        where = {"cluster": "slurm", "cluster.partition": "low", "cluster.mem": "2G"}
        words = self.words(name, story, **where, **{"cluster.setup": f"[{quoted}]"})
        if story.is_slow:
            slow.touch()
        env = {**self.cluster.env, "XDG_STATE_HOME": str(self.place / f"{name}-state")}
        answer = submit(words, self.place, env=env)
        assert answer.returncode == 0, answer.stderr
        (self.place / f"{name}.said").write_text(answer.stdout)

    def job(self, story: Story) -> dict[str, str]:
        """The last job of a story."""
        last = list(read_lines(story.run.submissions))[-1]["job_id"]
        return self.cluster.job(last)

    def announce_limit(self, story: Story) -> None:
        """What ``--signal=B:USR2@lead`` sends, without the wait for the limit."""
        self.cluster.run("scancel", "--batch", "--signal=USR2", self.job(story)["JobId"])


@dataclass
class Allocated:
    """A run inside allocations of the user's own, one after another; told by a thread."""

    world: World
    story: Story = field(default_factory=lambda: Story({"cluster": "allocation"}))
    codes: list[int] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def tell(self) -> None:
        """The first allocation comes to its end, the second is interrupted, the third goes well."""
        self._salloc("refused", **{"parallel.nodes": 2, "parallel.micro_batch": 1})
        self.story.slow.touch()
        self._salloc("first", **{"cluster.signal_lead_s": 80})
        self._salloc("second", interrupt=True)
        self.story.slow.unlink()
        self._salloc("third")

    def _salloc(self, name: str, interrupt: bool = False, **changes: object) -> None:
        cluster, place = self.world.cluster, self.world.place
        words = self.world.words(
            "allocated", self.story, **{"cluster.signal_lead_s": 30, **changes}
        )
        slow = {"PYTHONPATH": str(place / "slow"), "SLOW": str(self.story.slow)}
        before = len(trained_steps(self.story.run))
        minutes = "--time=2" if name == "first" else "--time=30"
        with (place / f"{name}.log").open("w") as log:
            shell = subprocess.Popen(
                ["salloc", "-N1", minutes, "--mem=2G", "-w", "node6", *command(words)],
                env=cluster.environ(**slow), cwd=place, stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        if interrupt:
            more = lambda: len(trained_steps(self.story.run)) > before + 2  # noqa: E731
            wait_until(more, "the second allocation to train", 300)
            inside = cluster.run("pgrep", "-P", str(shell.pid)).stdout
            os.kill(int(inside), signal.SIGINT)  # a shell gives a command its own process group
        self.codes.append(shell.wait(400))
        self.said.append((place / f"{name}.log").read_text())


def on(node: int, **changes: object) -> dict[str, object]:
    return {"+cluster.sbatch.nodelist": f"node{node}", **changes}


def path_without_scontrol(place: Path) -> Path:
    """Every program of /usr/bin but one."""
    place.mkdir()
    for program in Path("/usr/bin").iterdir():
        if program.name != "scontrol":
            (place / program.name).symlink_to(program)
    return place


def deaf_sbatch(place: Path) -> Path:
    """An sbatch that is not told that the job was accepted."""
    place.mkdir()
    wrapper = place / "sbatch"
    wrapper.write_text(
        f'#!/bin/bash\n{shutil.which("sbatch")} "$@" > /dev/null\n'
        "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv' >&2\n"
        "exit 1\n"
    )
    wrapper.chmod(0o755)
    return place


def hanging_scontrol(place: Path) -> Path:
    """A scontrol that gives no answer while the file ``hang`` is there."""
    place.mkdir()
    wrapper = place / "scontrol"
    wrapper.write_text(
        f"#!/bin/bash\n[ ! -e {place}/hang ] || exec sleep 600\n"
        f'exec {shutil.which("scontrol")} "$@"\n'
    )
    wrapper.chmod(0o755)
    return place


@pytest.fixture(scope="module")
def world(slurm, tmp_path_factory):
    del slurm  # skips, or fails, where Slurm is missing
    place = tmp_path_factory.mktemp("continuation")
    (place / "slow").mkdir()
    (place / "slow/sitecustomize.py").write_text(SLOW_DISK)
    data = write_tiny_data(place / "data")
    knobs = {"nnodes": 6, "cpus": 6, "gpus": 0, "grace": 20, "killwait": 30}
    with SlurmCluster.running(**knobs, extra_conf=PARTITIONS) as cluster:
        yield World(cluster, place, data)


@pytest.fixture(scope="module")
def allocated(world):
    return Allocated(world)


@pytest.fixture(scope="module")
def stories(world, allocated):
    """All stories, told to their ends side by side."""
    stage = Stage(world, allocated)
    return stage.tell() | {"allocated": allocated.story}


class Stage:
    """Starts the runs, does to each what its story says as soon as it trains, and waits."""

    def __init__(self, world: World, allocated: Allocated) -> None:
        self.world, self.allocated = world, allocated
        self.hanging = hanging_scontrol(world.place / "bin-hanging")
        missing = path_without_scontrol(world.place / "bin-missing")
        deaf = deaf_sbatch(world.place / "bin-deaf")
        short = {"cluster.partition": "short", "cluster.time": "0:20:00"}
        self.told = {
            "chunks": Story(on(2, **short, **{"cluster.signal_lead_s": 5})),
            "undisturbed": Story(on(2), is_slow=False),
            "cancelled_partition": Story(on(1, **{"cluster.partition": "cancel"})),
            "no_grace": Story(on(1, **{"cluster.partition": "nograce"})),
            "no_requeue": Story(on(1, **NO_REQUEUE)),
            "no_requeue_no_grace": Story(on(1, **NO_REQUEUE, **{"cluster.partition": "cancel"})),
            "missing": Story(on(2), setup=(f"export PATH={missing}",)),
            "hanging": Story(on(2), setup=(f"export PATH={self.hanging}:$PATH",)),
            "deaf": Story(on(2, **NO_REQUEUE), setup=(f"export PATH={deaf}:$PATH",)),
            "node_down": Story(on(3)),
            "cut_off": Story(
                {"+cluster.sbatch.exclude": "node[1-3,6]"},
                setup=(f"export TMPDIR={world.place}/tmp-$SLURMD_NODENAME", "mkdir -p $TMPDIR"),
            ),
            "bad_node": Story({"+cluster.sbatch.exclude": "node[1-4]"}),
        }
        self.last = Story(on(6))
        self.faults = self._faults()

    def _faults(self) -> list[tuple[Sequence[str], Callable[[], object]]]:
        """What is done once these stories train."""
        world, told, cluster = self.world, self.told, self.world.cluster
        high = ["-p", "high", "-w", "node1", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1"]
        down = ["update", "nodename=node3", "state=down", "reason=test"]
        first = [n for n in told if told[n].changes.get("+cluster.sbatch.nodelist") == "node1"]
        return [
            (first, lambda: cluster.run("sbatch", *high)),
            (["missing"], lambda: world.announce_limit(told["missing"])),
            (["hanging"], self._hang),
            (["deaf"], lambda: world.announce_limit(told["deaf"])),
            (["node_down"], lambda: cluster.run("scontrol", *down)),
            (["cut_off"], lambda: cluster.node("cut", told["cut_off"].nodes()[0])),
            (["bad_node"], lambda: mark_its_node(world, told["bad_node"])),
        ]

    def tell(self) -> dict[str, Story]:
        for name, story in self.told.items():
            self.world.start(name, story)
        inside = threading.Thread(target=self.allocated.tell, daemon=True)
        inside.start()
        deadline = time.monotonic() + 800
        while time.monotonic() < deadline and self._goes_on():
            self._keep_controller()
            self._cut()
            self._speed_up()
            if not inside.is_alive() and not self.faults and "controller" not in self.told:
                self.told["controller"] = self.last
                self.world.start("controller", self.last)
                self.faults = [(["controller"], lambda: restart_controller(self.world, self.last))]
            time.sleep(0.2)
        inside.join()
        return self.told

    def _keep_controller(self) -> None:
        """Starts slurmctld where it has crashed by itself: 22.05.8 did once, creating a step."""
        if not self.world.cluster.controller_lives():
            self.world.cluster.start_controller()

    def _goes_on(self) -> bool:
        ended = [story.ends()[-1:] == ["done"] for story in self.told.values()]
        return "controller" not in self.told or not all(ended)

    def _cut(self) -> None:
        for fault in list(self.faults):
            names, cut = fault
            if all(self.told[name].is_training() for name in names):
                cut()
                self.faults.remove(fault)
                for name in {*names} - {"cut_off"}:  # that one is to run on for a while
                    self.told[name].slow.unlink()

    def _speed_up(self) -> None:
        told = self.told
        if told["hanging"].events("follow_up"):
            (self.hanging / "hang").unlink(missing_ok=True)
        if len(told["chunks"].ends()) == 1:
            told["chunks"].slow.unlink(missing_ok=True)
        if len(told["cut_off"].jobs()) == 2:
            told["cut_off"].slow.unlink(missing_ok=True)

    def _hang(self) -> None:
        (self.hanging / "hang").touch()
        self.world.announce_limit(self.told["hanging"])


def restart_controller(world: World, story: Story) -> None:
    """Has a run go on while nothing that it asks of Slurm is answered for a while."""
    world.cluster.stop_controller()
    os.kill(read_json(story.run.holder)["pid"], signal.SIGUSR2)
    time.sleep(8)  # what is not answered in it is the point
    world.cluster.start_controller()


def mark_its_node(world: World, story: Story) -> None:
    """Has a run go on elsewhere, after its node was found to be bad."""
    node = story.nodes()[0]
    store = Path(read_json(story.run.launch)["bad_nodes"])
    add_evidence(store, Evidence(node, time.time(), "manual", "by this test", hours=1.0))
    world.announce_limit(story)


@pytest.mark.parametrize(
    ("name", "jobs", "arranged"),
    [
        ("cancelled_partition", 1, ["requeued"]),
        ("no_grace", 1, []),  # Slurm itself has requeued it
        ("no_requeue", 2, ["requeue_refused", "follow_up"]),
        ("no_requeue_no_grace", 2, ["requeue_refused", "follow_up"]),
        ("missing", 2, ["requeue_refused", "follow_up"]),
        ("hanging", 2, ["requeue_refused", "follow_up"]),
        ("deaf", 2, ["requeue_refused", "follow_up"]),
        ("controller", 1, ["requeued"]),
        ("node_down", 1, []),
        ("cut_off", 1, []),
        ("bad_node", 1, ["requeued"]),
    ],
)
def test_a_run_that_loses_its_job_goes_on_and_ends_bit_equal(stories, name, jobs, arranged):
    story = stories[name]
    assert story.ends()[-1] == "done", story.ends()
    kinds = ("requeued", "requeue_refused", "follow_up", "follow_up_refused")
    assert [event["kind"] for event in story.events(*kinds)] == arranged
    assert len(story.jobs()) == 2
    assert len(set(story.jobs())) == jobs
    assert_equal_runs(stories["undisturbed"].run, story.run)


def test_the_job_that_follows_is_as_the_first_and_starts_as_a_new_one(stories, world):
    """Nothing of the first job's SLURM_* gets into it: its restart count would be one of them."""
    first, second = (world.cluster.job(job) for job in stories["no_requeue"].jobs())
    for name in ("JobName", "Partition", "TimeLimit", "Command", "NumNodes", "MinMemoryNode"):
        assert first[name] == second[name], name
    assert second["Comment"] == f"hpcjobs:after-{first['JobId']}.0"
    assert [event["restarts"] for event in stories["no_requeue"].events("attempt_started")] == [
        0,
        0,
    ]
    assert [line["job_id"] for line in read_lines(stories["no_requeue"].run.submissions)] == (
        stories["no_requeue"].jobs()
    )


def test_an_answer_that_was_lost_makes_no_second_job(stories, world):
    script = str(stories["deaf"].run.script)
    jobs = world.cluster.run("scontrol", "show", "job", "-o").stdout.splitlines()
    assert sum(f"Command={script} " in line for line in jobs) == 2


def test_a_requeued_run_does_not_get_its_bad_node_again(stories, world):
    story = stories["bad_node"]
    job = world.cluster.job(story.jobs()[0])
    first, second = story.nodes()
    excluded = hosts_of(world, job["ExcNodeList"])
    assert excluded == sorted({*hosts_of(world, "node[1-4]"), first})
    assert second not in excluded


def test_what_runs_on_on_a_node_that_was_cut_off_commits_nothing(stories, world):
    """Slurm has lost the node and not its processes: two attempts of one run live side by side."""
    story = stories["cut_off"]
    first, second = story.nodes()
    assert first != second
    began = story.events("attempt_started")[1]["time"]
    commits = [(e["attempt"], e["time"] > began) for e in story.events("checkpoint")]
    assert (1, True) not in commits
    assert (2, True) in commits
    last_word = story.run.attempt(1).rank_verdict(0)
    wait_until(last_word.exists, "the lost attempt to see that it is", 60)
    assert read_json(last_word)["reason"].startswith("a newer attempt has taken over")
    assert read_json(story.run.attempt(2).verdict)["status"] == "done"


def hosts_of(world: World, text: str) -> list[str]:
    return world.cluster.run("scontrol", "show", "hostnames", text).stdout.split()


def test_a_run_longer_than_the_partition_allows_goes_on_in_chunks(stories, world):
    """The script asks for what the partition gives, and Slurm itself announces each end."""
    story = stories["chunks"]
    assert story.ends()[-1] == "done", story.ends()
    assert set(story.ends()[:-1]) == {"time_limit"}
    assert len(story.ends()) >= 2
    assert "#SBATCH --time=00:02:00\n" in story.run.script.read_text()
    said = (world.place / "chunks.said").read_text()
    assert "0:20:00, in chunks of 00:02:00" in said
    assert_equal_runs(stories["undisturbed"].run, story.run)


def test_a_run_inside_an_allocation_saves_before_its_end_and_is_not_requeued(stories, allocated):
    refused, first, second, third = allocated.said
    assert allocated.codes == [2, 0, 130, 0]
    assert "has 1 nodes, and the run needs 2" in refused
    assert refused.count("error:") == 1
    assert "stopped, saved at step" in first
    assert "stopping: saving a checkpoint first" in second
    assert "done after 80 steps" in third
    story = stories["allocated"]
    assert story.ends() == ["time_limit", "stopped", "done"]
    assert len(set(story.jobs())) == 3
    assert story.events("requeued", "follow_up") == []
    assert_equal_runs(stories["undisturbed"].run, story.run)
