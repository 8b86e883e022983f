"""``python -m hpcjobs.container`` against the real program, with an image of a shell and a libc.

Building that takes a second, so that every way in which a build or a check can end is tried for
real: as root and as an ordinary user, signed, changed, broken and stopped.
"""

import contextlib
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from users import as_user, show_to_everybody

from hpcjobs.login.container_command import container
from hpcjobs.login.door import run_door
from hpcjobs.run.errors import InputError
from hpcjobs.run.image_record import check_digest, image_digest, read_record

pytestmark = [pytest.mark.container, pytest.mark.usefixtures("container_program")]

ROOT = Path(__file__).resolve().parents[2]
LOADER = Path("/lib64/ld-linux-x86-64.so.2")
LIBC = Path("/lib/x86_64-linux-gnu/libc.so.6")


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Place:
    """A directory of one user, who runs the commands there."""

    path: Path
    user: str

    def run(self, *words, given="", **environment):
        """Runs a command of ``hpcjobs.container``."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.path),
            "PYTHONPATH": str(ROOT),
            **environment,
        }
        texts = [str(word) for word in words]
        if self.user != me():
            shown = partial(show_to_everybody, ROOT)
            return as_user(self.user, run_here, self.path, texts, environment, first=shown)
        command = [sys.executable, "-m", "hpcjobs.container", *texts]
        done = subprocess.run(
            command, cwd=self.path, input=given, capture_output=True, text=True, env=environment
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def define(self, post=None, test="echo tiny works", version="1.2.3"):
        """Writes a definition whose image holds a shell and nothing else.

        Without subordinate ids an ordinary user's %post runs under the program fakeroot, which
        takes more than a shell: only those tests have one that are about it.
        """
        (self.path / "lock.txt").write_text(f"tiny=={version}\n")
        path = self.path / "tiny.def"
        path.write_text(
            f"Bootstrap: scratch\n%files\n  /bin/dash /bin/sh\n  {LOADER} {LOADER}\n"
            f"  {LIBC} {LIBC}\n  lock.txt /lock.txt\n%test\n  {test}\n"
            f'%labels\n  hpcjobs.image tiny\n  title "a tiny one"\n'
            + (f"%post\n  {post}\n" if post else "")
        )
        return path

    def build(self, *words, **definition):
        """Builds the tiny image and returns where it is."""
        done = self.run("build", self.define(**definition), *words)
        assert done.returncode == 0, done.stderr
        return Path(done.stdout.strip())


def me():
    return pwd.getpwuid(os.getuid()).pw_name


def run_here(directory, words, environment):
    """Runs the command in this process, which must be a child: another user cannot start Python."""
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    code = run_door(container, words)
    sys.stdout.flush()
    sys.stderr.flush()
    return Done(code, Path("out").read_text(), Path("err").read_text())


@pytest.fixture(params=["me", "nobody"])
def place(request):
    """One that belongs to whoever runs the tests, and one of an ordinary user."""
    if request.param == "nobody" and os.getuid() != 0:
        pytest.skip("the tests already run as an ordinary user")
    user = me() if request.param == "me" else "nobody"
    path = Path(tempfile.mkdtemp(prefix="hpcjobs für ", dir="/tmp"))
    shutil.chown(path, user)
    yield Place(path, user)
    shutil.rmtree(path)


@pytest.fixture
def mine(tmp_path):
    return Place(tmp_path, me())


def left_over(directory):
    return [path.name for path in directory.iterdir() if "partial" in path.name]


def test_an_image_is_built_recorded_verified_and_described(place):
    image = place.build()
    assert image == place.path / ".cache" / "hpcjobs" / "images" / "tiny.sif"
    record = read_record(image)
    assert record.sha256 == image_digest(image)
    assert record.size_bytes == image.stat().st_size
    assert record.versions == {"tiny": "1.2.3"}
    assert record.labels["title"] == "a tiny one"
    assert record.program.startswith("apptainer ")
    assert record.built_by.startswith(f"{place.user}@")
    assert [path.stat().st_mode & 0o077 for path in image.parent.glob("tiny*")] == [0, 0, 0]
    assert left_over(image.parent) == []

    verified = place.run("verify", image)
    assert verified.returncode == 0, verified.stderr
    assert "test       passed: tiny works" in verified.stdout
    facts = json.loads(place.run("info", image, "--json").stdout)
    assert facts["kind"] == "sif"
    assert facts["signed"] is False
    assert facts["sha256"] == facts["recorded_sha256"] == record.sha256
    assert facts["labels"]["hpcjobs.image"] == "tiny"
    assert "versions          tiny 1.2.3\n" in place.run("info", image).stdout


def test_a_sandbox_is_an_image_too(place):
    image = place.build("--sandbox", "box")
    assert (image / "lock.txt").read_text() == "tiny==1.2.3\n"
    assert place.run("verify", image).returncode == 0
    assert json.loads(place.run("info", image, "--json").stdout)["kind"] == "sandbox"
    (image / "lock.txt").write_text("changed\n")
    refused = place.run("verify", image)
    assert refused.returncode == 3
    assert "is not the image it was" in refused.stderr


def test_a_second_build_of_the_same_is_found_and_a_change_is_built(mine):
    image = mine.build()
    first = read_record(image)
    mine.build()
    assert read_record(image) == first
    mine.build(version="1.2.4")
    assert read_record(image).definition_sha256 != first.definition_sha256
    changed = read_record(image)
    mine.build("--force", version="1.2.4")
    assert read_record(image).built_at >= changed.built_at
    assert read_record(image).sha256 != changed.sha256


def test_an_image_may_lie_where_the_program_s_own_binds_could_not(mine):
    place = Place(mine.path / "a,b: it's", me())
    place.path.mkdir()
    image = place.build()
    assert place.run("verify", image).returncode == 0
    refused = place.run("build", place.define(), "--sandbox", "box")
    assert refused.returncode == 2
    assert "without colon, comma and apostrophe" in refused.stderr


def test_an_image_for_others_is_readable_and_its_record_too(mine):
    image = mine.build("--output", "out.sif")
    assert stat.S_IMODE(image.stat().st_mode) == 0o700
    assert mine.build("--shared", "--output", "out.sif") == image
    assert stat.S_IMODE(image.stat().st_mode) == 0o755
    assert stat.S_IMODE(image.with_name("out.sif.json").stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("broken", "stage", "words"),
    [
        (
            {"post": "echo 'E: no such package'; exit 7"},
            "installing packages",
            "E: no such package",
        ),
        ({"test": "echo 'error: no torch' >&2; exit 1"}, "testing", "error: no torch"),
    ],
)
def test_a_build_that_fails_leaves_the_old_image_and_says_why(mine, broken, stage, words):
    image = mine.build()
    before = image_digest(image)
    failed = mine.run("build", mine.define(**broken))
    assert failed.returncode == 3
    assert failed.stdout == ""
    (error,) = [line for line in failed.stderr.splitlines() if line.startswith("error:")]
    assert f"failed while {stage}: {words}" in error
    log = Path(error.split("all of it is in ")[1])
    assert words in log.read_text()
    assert image_digest(image) == before == read_record(image).sha256
    assert left_over(image.parent) == []


def test_a_build_that_is_interrupted_leaves_nothing_behind(mine):
    definition = mine.define(post="while :; do :; done")
    temporary = mine.path / "tmp"
    temporary.mkdir()
    words = ["build", definition, "--output", "out.sif", "--tmpdir", temporary]
    building = subprocess.Popen(
        [sys.executable, "-m", "hpcjobs.container", *words],
        cwd=mine.path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for line in building.stderr:
        if "installing packages" in line:
            os.killpg(building.pid, signal.SIGINT)
            break
    _, said = building.communicate(timeout=60)
    assert (building.returncode, said.splitlines()[-1]) == (130, "interrupted")
    assert {path.name for path in mine.path.iterdir()} == {
        *("lock.txt", "tiny.def", "tmp", "out.sif.log")
    }
    assert list(temporary.iterdir()) == []
    assert not [words for words in command_lines() if str(mine.path) in words]


def command_lines():
    """Of every process of this machine."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_bytes().decode(errors="replace")


def test_progress_tells_the_stages_and_where_the_log_is(mine):
    done = mine.run("build", mine.define())
    stages = [line.split(" ", 1)[1] for line in done.stderr.splitlines() if line[:2] == "0:"]
    assert stages == ["fetching the base system", "testing", "packing", "recording the digest"]
    (log,) = [line[5:] for line in done.stderr.splitlines() if line.startswith("log: ")]
    assert "Build complete" in Path(log).read_text()


def test_a_changed_image_is_refused(mine):
    image = mine.build()
    planned = read_record(image).sha256
    flip(image)
    refused = mine.run("verify", image)
    assert refused.returncode == 3
    assert "is not the image it was" in refused.stderr
    with pytest.raises(InputError, match="submit the run again to take this one"):
        check_digest(image, planned)


def flip(image):
    """Changes one byte in the middle."""
    with image.open("r+b") as file:
        file.seek(image.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0xFF]))


def test_a_signature_holds_where_a_record_can_be_forged(place):
    image = place.build()
    unsigned = image_digest(image)
    signed = place.run("sign", image)
    assert signed.returncode == 0, signed.stderr
    key = place.path / ".config" / "hpcjobs" / "image-key.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    record = read_record(image)
    assert record.sha256 == image_digest(image) != unsigned
    assert record.signed_with is not None
    assert "signature  good" in place.run("verify", image).stdout
    assert json.loads(place.run("info", image, "--json").stdout)["signed"] is True
    assert "is signed already" in place.run("sign", image).stderr

    flip(image)
    forged = json.loads(image.with_name("tiny.sif.json").read_text())
    forged["sha256"] = image_digest(image)
    image.with_name("tiny.sif.json").write_text(json.dumps(forged))
    refused = place.run("verify", image, "--no-test")
    assert refused.returncode == 3
    assert "is not signed by the key" in refused.stderr


def test_the_key_that_must_have_signed_can_be_named(mine):
    image = mine.build()
    made = mine.run("sign", image, "--key", mine.path / "absent.pem")
    assert made.returncode == 3
    assert "there is no key" in made.stderr
    unsigned = mine.run("verify", image, "--key", image)
    assert "is not signed, although it should be" in unsigned.stderr
    assert mine.run("sign", image).returncode == 0
    other = mine.path / "other.pem"
    make = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", other]
    subprocess.run(make, check=True)
    public = subprocess.run(["openssl", "pkey", "-in", other, "-pubout"], capture_output=True)
    (mine.path / "other.pub").write_bytes(public.stdout)
    wrong = mine.run("verify", image, "--key", mine.path / "other.pub")
    assert wrong.returncode == 3
    assert "is not signed by the key" in wrong.stderr


def test_a_key_that_others_can_read_signs_nothing(mine):
    image = mine.build()
    before = image_digest(image)
    mine.run("sign", image)
    key = mine.path / ".config" / "hpcjobs" / "image-key.pem"
    mine.build("--force")
    key.chmod(0o640)
    refused = mine.run("sign", image)
    assert refused.returncode == 3
    assert "chmod 600" in refused.stderr
    assert image_digest(image) != before
    assert read_record(image).signed_with is None


def test_a_shell_sees_the_package_and_the_binds_and_not_the_environment(mine):
    image = mine.build()
    (mine.path / "a,b:c").mkdir()
    (mine.path / "a,b:c" / "file").write_text("")
    shell = mine.run(
        "shell", image, "--bind", "a,b:c", given='pwd\necho "$PYTHONPATH|$SECRET|"\necho a,b:c/*\n',
        SECRET="leaks",
    )  # fmt: skip
    assert shell.returncode == 0, shell.stderr
    assert shell.stdout.splitlines() == [str(mine.path), f"{ROOT}||", "a,b:c/file"]
    missing = mine.run("shell", image, "--bind", "gone")
    assert missing.returncode == 3
    assert "cannot bind" in missing.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["verify", "gone.sif"], 3, "gone.sif has no record beside it"),
        (["info", "gone.sif"], 3, "there is no image gone.sif"),
        (["info", "text"], 3, "text is no image that apptainer"),
        (["sign", "text"], 3, "text has no record beside it"),
        (["shell", "gone.sif"], 3, "there is no image gone.sif"),
        (["build", "train_cpu"], 2, "did you mean 'train-cpu'?"),
        (["build", "gone.def"], 3, "cannot read the definition"),
        (["build", "train-cpu", "--arg", "mirror"], 2, "--arg mirror: write NAME=VALUE"),
        (["build", "--sandbox", "x", "--output", "y"], 2, "not allowed with"),
        ([], 2, "python -m hpcjobs.container --help"),
    ],
)
def test_mistakes_are_one_line(mine, words, code, message):
    (mine.path / "text").write_text("no image")
    done = mine.run(*words)
    assert done.returncode == code
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_a_temporary_directory_that_the_program_would_misread_is_refused(mine):
    (mine.path / "a:b").mkdir()
    refused = mine.run("build", mine.define(), "--tmpdir", "a:b")
    assert refused.returncode == 3
    assert "because of its colon or comma" in refused.stderr


def test_a_directory_of_other_things_is_never_replaced(mine):
    (mine.path / "home").mkdir()
    (mine.path / "home" / "thesis.tex").write_text("years")
    refused = mine.run("build", mine.define(), "--sandbox", "home", "--force")
    assert refused.returncode == 2
    assert "is no image that this command built" in refused.stderr
    assert (mine.path / "home" / "thesis.tex").read_text() == "years"
