"""What is decided before a build starts: the program, its options, and the machine's sources."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcjobs.login.build_progress import stage_of
from hpcjobs.login.container_flags import Builder, bind_word, build_words
from hpcjobs.login.package_sources import Bind, lay_out, read_mirror, read_settings
from hpcjobs.run.container_program import Program, detect, parse_version
from hpcjobs.run.errors import InputError

APPTAINER = Program("/usr/bin/apptainer", "apptainer", (1, 4, 5))
CE = Program("/usr/bin/singularity", "singularity-ce", (4, 1, 1))
ROOT_WHOLE = Builder(uid=0, whole_root=True, subordinate_ids=True)
ROOT_CUT = Builder(uid=0, whole_root=False, subordinate_ids=True)
USER = Builder(uid=1000, whole_root=False, subordinate_ids=False)
USER_IDS = Builder(uid=1000, whole_root=False, subordinate_ids=True)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("apptainer version 1.4.5\n", ("apptainer", (1, 4, 5))),
        ("apptainer version 1.4.5-1.el9", ("apptainer", (1, 4, 5))),
        ("singularity-ce version 4.1.1-jammy", ("singularity-ce", (4, 1, 1))),
        ("singularity-ce version 3.9.0-rc.1", ("singularity-ce", (3, 9, 0))),
        ("singularity-pro version 3.11-2", ("singularity-ce", (3, 11))),
        ("singularity version 3.8.7", ("singularity", (3, 8, 7))),
        ("2.6.1-dist", ("singularity", (2, 6, 1))),
        ("docker version 27.0.1", None),
        ("Singularity: space trading game", None),
        ("", None),
    ],
)
def test_programs_are_told_apart_by_what_they_say(text, found):
    assert parse_version(text) == found


@given(st.text())
def test_no_text_breaks_the_reading_of_versions(text):
    found = parse_version(text)
    assert found is None or (found[0] and all(number >= 0 for number in found[1]))


@given(
    st.sampled_from(["apptainer", "singularity-ce", "singularity"]),
    st.lists(st.integers(0, 99), min_size=2, max_size=4),
)
def test_what_a_program_is_called_reads_back(kind, numbers):
    program = Program("/x", kind, tuple(numbers))
    assert parse_version(f"{kind} version {str(program).split()[1]}") == (kind, tuple(numbers))


def finder(**texts):
    paths = {name: f"/bin/{name}" for name in texts}
    return {"answer": lambda words: texts[Path(words[0]).name], "which": paths.get}


def test_a_program_named_singularity_may_be_apptainer():
    found = detect(**finder(singularity="apptainer version 1.4.5"))
    assert (found.path, found.kind, found.prefix) == ("/bin/singularity", "apptainer", "APPTAINER")


def test_a_program_that_is_something_else_is_passed_over():
    found = detect(**finder(apptainer="what?", singularity="singularity-ce version 4.0.0"))
    assert (found.kind, found.prefix) == ("singularity-ce", "SINGULARITY")


def test_without_a_program_the_message_says_what_to_do():
    with pytest.raises(InputError, match="load the cluster's module"):
        detect(**finder())
    with pytest.raises(InputError, match=r"/bin/apptainer --version answers 'what\?'"):
        detect(**finder(apptainer="what?"))


def test_a_program_that_cannot_be_run_is_none(tmp_path):
    broken = tmp_path / "apptainer"
    broken.write_text("#!/nonexistent\n")
    broken.chmod(0o755)
    with pytest.raises(InputError, match="FileNotFoundError"):
        detect(which=lambda name: str(broken) if name == "apptainer" else None)


@pytest.mark.parametrize(
    ("program", "builder", "fakeroot"),
    [
        (APPTAINER, ROOT_WHOLE, False),
        (APPTAINER, ROOT_CUT, True),
        (APPTAINER, USER, False),
        (APPTAINER, USER_IDS, False),
        (Program("a", "apptainer", (1, 0, 3)), USER_IDS, True),
        (CE, USER, False),
        (CE, USER_IDS, True),
        (CE, ROOT_WHOLE, False),
    ],
)
def test_rights_follow_program_and_user(program, builder, fakeroot):
    words = build_words(program, builder, Path("x.sif"), Path("x.def"))
    assert ("--fakeroot" in words) == fakeroot
    assert words[-2:] == ["x.sif", "x.def"]


@pytest.mark.parametrize(
    ("program", "sandbox", "squash"),
    [
        (APPTAINER, False, True),
        (APPTAINER, True, False),
        (Program("a", "apptainer", (1, 3, 6)), False, False),
        (CE, False, False),
    ],
)
def test_options_of_new_apptainers_go_to_those_alone(program, sandbox, squash):
    words = build_words(program, USER, Path("x"), Path("x.def"), sandbox=sandbox)
    assert ("--mksquashfs-args" in words) == squash
    assert ("--sandbox" in words) == sandbox


def test_arguments_and_binds_are_words_of_their_own():
    words = build_words(
        CE,
        USER,
        Path("x.sif"),
        Path("x.def"),
        arguments={"mirror": "http://a b"},
        binds=[Bind(Path("/a b"), "/mnt"), Bind(Path("/c"), "/d", read_only=False)],
    )
    assert words[words.index("--build-arg") + 1] == "mirror=http://a b"
    assert "/a b:/mnt:ro" in words
    assert "/c:/d" in words


def test_a_build_refuses_to_bind_what_its_program_would_misread():
    with pytest.raises(InputError, match="colon or comma"):
        build_words(APPTAINER, USER, Path("x"), Path("x.def"), binds=[Bind(Path("/a,b"), "/mnt")])


def test_an_old_program_is_refused_for_a_definition_with_arguments():
    old = Program("s", "singularity", (3, 8, 7))
    build_words(old, USER, Path("x.sif"), Path("x.def"))
    with pytest.raises(InputError, match=r"singularity 3\.8\.7 knows no --build-arg"):
        build_words(old, USER, Path("x.sif"), Path("x.def"), arguments={"mirror": "x"})


@given(st.text(alphabet="a:,\\ ", min_size=1))
def test_bind_words_come_apart_again(name):
    word = bind_word(Bind(Path("/") / name, "/mnt"))
    parts, rest = [""], iter(word)
    for character in rest:
        if character == "\\":
            parts[-1] += next(rest)
        elif character == ":":
            parts.append("")
        else:
            assert character != ","
            parts[-1] += character
    assert parts == [str(Path("/") / name), "/mnt", "ro"]


def test_only_what_stands_for_every_command_of_pip_is_taken():
    text = """\
:env:.find-links='/wheels'
global.cert='/etc/ca.crt'
global.find-links='/elsewhere'
global.no-color='true'
install.index-url='https://wrong'
download.proxy='wrong'
"""
    assert read_settings(text) == {"cert": "/etc/ca.crt", "find-links": "/wheels"}


def test_local_sources_are_bound_and_addresses_stay(tmp_path):
    for name in ("out", "wheels", "mirror/simple"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "ca.crt").write_text("certificate")
    settings = {
        "find-links": f"{tmp_path}/wheels https://links.example",
        "extra-index-url": f"file://{tmp_path}/mirror/simple",
        "cert": f"{tmp_path}/ca.crt",
    }
    binds = lay_out(tmp_path / "out", settings, {"HTTPS_PROXY": "http://proxy.example:3128"})
    text = (tmp_path / "out" / "pip.conf").read_text()
    inside = {str(bind.source): bind.inside for bind in binds}
    assert inside[str(tmp_path / "out")] == "/mnt"
    assert f"find-links = {inside[f'{tmp_path}/wheels']} https://links.example\n" in text
    assert f"extra-index-url = file://{inside[f'{tmp_path}/mirror']}/simple\n" in text
    assert "cert = /mnt/ca.crt\n" in text
    assert "proxy = http://proxy.example:3128\n" in text
    assert (tmp_path / "out" / "ca.crt").read_text() == "certificate"
    for bind in binds[1:]:
        assert (tmp_path / "out" / Path(bind.inside).name).is_dir(), "a bind needs its place"


def test_an_index_with_a_password_stays_private(tmp_path):
    lay_out(tmp_path, {"index-url": "https://me:secret@index.example/simple"}, {})
    assert (tmp_path / "pip.conf").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("text", "release", "found"),
    [
        ("http://m/debian/ bookworm\n", "bookworm", "http://m/debian/"),
        ("http://s/ bookworm-security\nhttp://m/ bookworm\n", "bookworm", "http://m/"),
        ("http://u/ noble\n", "bookworm", None),
        ("", "bookworm", None),
    ],
)
def test_the_mirror_is_that_of_the_release(text, release, found):
    assert read_mirror(text, release) == found


@pytest.mark.parametrize(
    ("line", "stage"),
    [
        ("INFO:    Starting build...\n", "fetching the base system"),
        ("INFO:    Running post scriptlet\n", "installing packages"),
        ("INFO:    Running testscript\n", "testing"),
        ("INFO:    Creating SIF file...\n", "packing"),
        ("INFO:    Creating sandbox directory...\n", "packing"),
        ("I: Retrieving apt 2.6.1\n", None),
        ("a package that says INFO:    Running testscript\n", None),
    ],
)
def test_stages_are_read_from_the_program_alone(line, stage):
    assert stage_of(line) == stage
