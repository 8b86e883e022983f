"""A real Slurm cluster of several nodes on this machine, for the tests.

The daemons are the distribution's; `up.sh`, `down.sh` and `node.sh` beside this file start and
stop them. This module gives a test one object to talk to them through.
"""

import fcntl
import json
import os
import pwd
import re
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

SCRIPTS = Path(__file__).resolve().parent
# Not $TMPDIR: the daemons' sockets lie below, and a socket's path has room for 107 characters.
BASE = Path("/tmp")
PREFIX = "hpcjobs-slurm-"
# Below the kernel's range of ephemeral ports, so that no outgoing connection sits on one of them.
PORT_BLOCKS = range(12288, 20480, 256)
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
SCHEDULER_VARIABLES = ("SLURM", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SINFO_", "SCANCEL_")
FINAL_STATES = frozenset(
    {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL"}
)

Job = dict[str, str]
NodeAction = Literal["start", "stop", "cut", "kill"]


class ClusterError(RuntimeError):
    """The cluster or one of its commands failed, or a wait for it took too long."""


def missing_daemons() -> list[str]:
    """Name the programs of Slurm and MUNGE that are not installed here."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    return [name for name in DAEMONS if shutil.which(name, path=path) is None]


def wait_until(predicate: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Poll until the predicate holds; `what` says in the error what was waited for."""
    deadline = time.monotonic() + timeout_s
    while not predicate():
        if time.monotonic() > deadline:
            raise ClusterError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(0.05)


def parse_job(line: str) -> Job:
    """Split one line of `scontrol show job -o`; a value may hold blanks and equals signs.

    >>> parse_job("JobId=7 JobName=a b TRES=cpu=1,node=1 StdOut=/x y/o ")["JobName"]
    'a b'
    """
    pieces = re.split(r"(?:^| )([A-Z][A-Za-z/:_]*)=", line.strip())
    return {key: value.strip() for key, value in zip(pieces[1::2], pieces[2::2], strict=True)}


@dataclass
class SlurmCluster:
    """One cluster: a directory, a block of ports, and the daemons that use them.

    Slurm knows the accounts of the machine; `user` names the one that runs the daemons and the
    jobs. Only root can name another than itself, which is how the tests prove that an ordinary
    user needs no more than this.
    """

    directory: Path
    port: int
    user: str | None = None

    @classmethod
    def create(cls, user: str | None = None) -> Self:
        """Reserve a directory and a block of ports; whatever a killed run left there is removed.

        The directory is named by the ports, so that making it reserves both at once, against
        other test runs too.
        """
        with (BASE / f"{PREFIX}{os.geteuid()}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for port in PORT_BLOCKS:
                directory = BASE / f"{PREFIX}{port}"
                cls(directory, port)._remove_stale()
                cluster = cls(directory, port, user)
                if cluster._reserve():
                    return cluster
        raise ClusterError(f"all blocks of ports are taken; see {BASE}/{PREFIX}*")

    @classmethod
    @contextmanager
    def running(cls, user: str | None = None, **knobs: str | int) -> Iterator[Self]:
        """A cluster of its own for the length of a with statement."""
        cluster = cls.create(user)
        try:
            cluster.start(**knobs)
            yield cluster
        finally:
            cluster.stop()

    def start(self, **knobs: str | int) -> None:
        """Start the daemons; the knobs are those at the head of `up.sh`, in either case."""
        settings = {name.upper(): str(value) for name, value in knobs.items()}
        self._script("up.sh", timeout_s=90, **settings)

    def stop(self) -> None:
        """Stop the daemons and every process of their jobs, and remove the directory."""
        self._script("down.sh", timeout_s=90)
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def env(self) -> dict[str, str]:
        """What a process needs in its environment to reach this cluster."""
        return {
            "SLURM_CONF": str(self.directory / "etc/slurm.conf"),
            "MUNGE_SOCKET": str(self.directory / "run/munge.socket"),
        }

    def environ(self, **extra: str) -> dict[str, str]:
        """A whole environment for a subprocess: this one without other schedulers' variables."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(SCHEDULER_VARIABLES)}
        home = {"HOME": str(self.home)} if self.user else {}
        return kept | home | self.env | extra

    @property
    def has_host_names(self) -> bool:
        """Whether every node has its own host name (and can be killed); see UTS in `up.sh`."""
        return "UTS=1" in (self.directory / "etc/node.env").read_text()

    @property
    def home(self) -> Path:
        """A directory that belongs to the cluster's user and goes away with the cluster."""
        return self.directory / "home"

    def run(
        self,
        *argv: str | Path,
        check: bool = True,
        timeout_s: float = 60,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command against this cluster, as its user, and return what it printed."""
        command = self._as_user(*map(str, argv))
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                check=False,
                cwd=cwd or self.home,
                env=self.environ(**(env or {})),
                stdin=subprocess.DEVNULL,
                text=True,
                timeout=timeout_s,
            )
        except subprocess.TimeoutExpired as error:
            raise ClusterError(f"{shlex.join(command)}: not done after {timeout_s:g} s") from error
        if check and done.returncode != 0:
            output = done.stdout + done.stderr
            raise ClusterError(f"{shlex.join(command)}: exit code {done.returncode}\n{output}")
        return done

    def submit(self, *options: str | Path, cwd: Path | None = None) -> str:
        """Submit with sbatch and return the job id."""
        return self.run("sbatch", "--parsable", *options, cwd=cwd).stdout.strip()

    def job(self, job_id: str | int) -> Job:
        """What the controller knows of a job, until ten minutes after the job's end."""
        return parse_job(self.run("scontrol", "show", "job", "-o", str(job_id)).stdout)

    def wait_for_state(
        self, job_id: str | int, states: str | Collection[str], timeout_s: float = 30
    ) -> Job:
        """Wait until the job is in one of the states; fail at once if it ended in another."""
        wanted = {states} if isinstance(states, str) else set(states)
        deadline = time.monotonic() + timeout_s
        while (job := self.job(job_id))["JobState"] not in wanted:
            ended = job["JobState"] in FINAL_STATES
            if ended or time.monotonic() > deadline:
                told = "it ended" if ended else f"after {timeout_s:g} s it is"
                raise ClusterError(
                    f"job {job_id} is to be {' or '.join(sorted(wanted))}; {told} "
                    f"{job['JobState']} (Reason={job['Reason']} ExitCode={job['ExitCode']} "
                    f"Restarts={job['Restarts']})\n{self.logs()}"
                )
            time.sleep(0.05)
        return job

    def wait_until(self, predicate: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Poll until the predicate holds; the error carries the end of the daemons' logs."""
        try:
            wait_until(predicate, timeout_s, what)
        except ClusterError as error:
            raise ClusterError(f"{error}\n{self.logs()}") from error

    def start_soon(self, job_id: str | int, timeout_s: float = 30) -> None:
        """Start a requeued job soon, which Slurm would hold back for CRED_EXPIRE + 1 seconds.

        Waits until it is requeued and again until it has started, so that calls can follow on
        each other.
        """

        def requeued() -> bool:
            return self.job(job_id)["Reason"] == "BeginTime"

        def started() -> bool:
            # A run can be over and requeued between two looks at it.
            job = self.job(job_id)
            return job["JobState"] != "PENDING" or job["Restarts"] != restarts

        self.wait_until(requeued, timeout_s, f"job {job_id} to be requeued")
        restarts = self.job(job_id)["Restarts"]
        # Not in this very second: the nodes have just revoked the credential of the last run, and
        # refuse a new one unless its time, in whole seconds, is a later one.
        self.run("scontrol", "update", f"JobId={job_id}", "StartTime=now+1")
        self.wait_until(started, timeout_s, f"job {job_id} to start again")

    def cancel_all(self, timeout_s: float = 30) -> None:
        """End every job at once, without the grace a job gets otherwise, and wait for it.

        Again and again, because a job that handles the signal may have itself requeued.
        """
        user = self.user or pwd.getpwuid(os.geteuid()).pw_name

        def queue_is_empty() -> bool:
            if not self.run("squeue", "--noheader").stdout:
                return True
            self.run("scancel", "--full", "--signal=KILL", f"--user={user}", check=False)
            self.run("scancel", f"--user={user}", check=False)
            return False

        self.wait_until(queue_is_empty, timeout_s, "the queue to be empty")

    def node(self, action: NodeAction, name: str) -> None:
        """Start, stop, cut off or kill one node; the head of `node.sh` says what each means."""
        self._script("node.sh", action, name, timeout_s=30)

    def stop_controller(self) -> None:
        """Shut slurmctld down as for an upgrade: the jobs run on, and no command is answered."""
        pid = int((self.directory / "run/slurmctld.pid").read_text())
        self.run("scontrol", "shutdown", "slurmctld")
        wait_until(lambda: not Path(f"/proc/{pid}/exe").exists(), 20, "slurmctld to be gone")

    def controller_lives(self) -> bool:
        """Whether the process of slurmctld is there; it may be too busy to answer."""
        pid = (self.directory / "run/slurmctld.pid").read_text().strip()
        return Path(f"/proc/{pid}/exe").exists()

    def start_controller(self) -> None:
        """Start slurmctld again from the state that it saved."""
        path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
        self.run("slurmctld", "-f", self.directory / "etc/slurm.conf", env={"PATH": path})
        wait_until(
            lambda: self.run("scontrol", "ping", check=False).returncode == 0, 20, "slurmctld"
        )

    def node_states(self) -> dict[str, str]:
        """The state of every node by its name, as sinfo says it (`idle`, `mixed`, `down*`)."""
        lines = self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T").stdout.splitlines()
        return dict(line.split(maxsplit=1) for line in lines)

    def logs(self, lines: int = 20) -> str:
        """The last lines of every daemon's log, for the message of a failure."""
        tails = []
        for log in sorted(self.directory.glob("log/*.log")):
            tail = log.read_text(errors="replace").splitlines()[-lines:]
            tails.append("\n".join([f"--- {log.name}", *tail]))
        return "\n".join(tails)

    @property
    def _copied_scripts(self) -> Path:
        """Where another user finds the scripts; it may not be allowed to read the repository."""
        return self.directory / "bin"

    def _as_user(self, *argv: str) -> list[str]:
        if self.user is None:
            return list(argv)
        account = pwd.getpwnam(self.user)
        ids = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
        return ["setpriv", *ids, "--", *argv]

    def _script(self, name: str, *arguments: str, timeout_s: float, **settings: str) -> None:
        scripts = self._copied_scripts if self.user else SCRIPTS
        command = self._as_user("bash", str(scripts / name), *arguments)
        places = {"CLUSTER_DIR": str(self.directory), "PORT0": str(self.port)}
        # Into a file: a pipe would stay open for as long as a daemon that inherited it lives.
        output = self.directory / f"{name}.out"
        with output.open("w") as stream:
            done = subprocess.run(
                command,
                check=False,
                cwd="/",
                env=self.environ(**settings, **places),
                stdin=subprocess.DEVNULL,
                stderr=subprocess.STDOUT,
                stdout=stream,
                timeout=timeout_s,
            )
        if done.returncode != 0:
            raise ClusterError(f"{shlex.join(command)}: failed\n{output.read_text()}")

    def _reserve(self) -> bool:
        if not self._ports_are_free():
            return False
        try:
            self.directory.mkdir(mode=0o755)
        except FileExistsError:
            return False
        (self.directory / "owner.json").write_text(json.dumps(_identity(os.getpid())))
        if self.user:
            shutil.copytree(SCRIPTS, self._copied_scripts, ignore=shutil.ignore_patterns("*.py*"))
        for name in ("etc", "run", "log", "spool", "state", "dev", "home"):
            (self.directory / name).mkdir(mode=0o755)
            if self.user:
                shutil.chown(self.directory / name, self.user)
        return True

    def _ports_are_free(self) -> bool:
        """Whether nobody listens where the daemons will; srun finds a free port by itself."""
        for port in range(self.port, self.port + 16):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    return False
        return True

    def _remove_stale(self) -> None:
        """Stop and remove what a run left here that was killed before it could clean up.

        Only in a directory of our own: the scripts read files in it.
        """
        try:
            if self.directory.stat().st_uid != os.geteuid():
                return
            owner = json.loads((self.directory / "owner.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return
        if owner != _identity(owner["pid"]):
            self.stop()


def _identity(pid: int) -> dict[str, int | str]:
    """A process by its id and start time, for ids are used again; an ended one has no time."""
    try:
        # The name in the second field may hold blanks and brackets; the start is field 22.
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        started = ""
    return {"pid": pid, "started": started}
