"""The definitions that ship: one lock, the versions of pyproject, and shell that shell can read."""

import importlib.metadata
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from hpcjobs.login.container_definition import (
    Definition,
    find_definition,
    read_lock,
    shipped_definitions,
)
from hpcjobs.login.package_sources import PIP_CONF
from hpcjobs.run.errors import ConfigError, InputError

ROOT = Path(__file__).resolve().parents[2]
LOCK = read_lock((ROOT / "singularity" / "lock.txt").read_text())


def section(definition, name):
    found = re.search(rf"^%{name}\n(.*?)(?=^%|\Z)", definition.text, re.MULTILINE | re.DOTALL)
    return found[1]


def requirements_of_training():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(text) for text in project["optional-dependencies"]["train"]]


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("wanted", requirements_of_training(), ids=lambda wanted: wanted.name)
def test_the_lock_holds_what_pyproject_asks_for(wanted):
    assert wanted.specifier.contains(LOCK[normal(wanted.name)])


def test_the_lock_holds_all_that_the_training_stack_depends_on():
    todo = [wanted.name for wanted in requirements_of_training()] + ["numpy"]
    reached = set()
    while todo:
        name = normal(todo.pop())
        if name in reached:
            continue
        reached.add(name)
        for text in importlib.metadata.requires(name) or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                todo.append(needed.name)
    on_a_cpu = {name for name in reached if not name.startswith(("nvidia-", "cuda-", "triton"))}
    assert on_a_cpu <= LOCK.keys(), sorted(on_a_cpu - LOCK.keys())


def test_setup_installs_what_pyproject_names():
    text = (ROOT / "singularity" / "setup.sh").read_text().replace("\\\n", " ")
    installed = re.search(r'--constraint "\$lock" +(.+)', text)[1].split()
    assert set(installed) == {wanted.name for wanted in requirements_of_training()} | {"numpy"}


def test_both_definitions_differ_only_in_base_and_device():
    gpu, cpu = find_definition("train"), find_definition("train-cpu")
    assert gpu.copied == cpu.copied
    assert gpu.versions == cpu.versions == LOCK
    for name in ("environment", "runscript", "test", "files"):
        assert section(gpu, name) == section(cpu, name)
    assert "hpcjobs.image train\n" in gpu.text
    assert "hpcjobs.image train-cpu\n" in cpu.text


def test_the_image_for_cards_brings_the_user_side_of_rdma():
    post = section(find_definition("train"), "post")
    for package in ("libibverbs1", "ibverbs-providers", "librdmacm1"):
        assert package in post


@pytest.mark.parametrize("name", shipped_definitions())
@pytest.mark.parametrize("part", ["post", "test", "runscript", "environment"])
def test_the_shell_of_every_section_is_clean(name, part):
    checked = subprocess.run(
        ["shellcheck", "--shell=sh", "-"],
        input=section(find_definition(name), part),
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout


def define(directory, text, **files):
    for name, content in files.items():
        (directory / name).write_text(content)
    path = directory / "mine.def"
    path.write_text(text)
    return find_definition(str(path))


def test_a_digest_follows_text_files_and_arguments_and_nothing_else(tmp_path):
    text = "Bootstrap: scratch\n%files\n    a /a\n"
    first = define(tmp_path, text, a="one")
    digest = first.digest({})
    (tmp_path / "unrelated").write_text("x")
    assert define(tmp_path, text, a="one").digest({}) == digest
    others = {
        define(tmp_path, text, a="two").digest({}),
        define(tmp_path, text + "# more\n", a="one").digest({}),
        define(tmp_path, text, a="one").digest({"mirror": "x"}),
    }
    assert len(others | {digest}) == 4


def test_files_of_another_stage_and_comments_are_not_of_this_machine(tmp_path):
    text = "Bootstrap: scratch\n%files from base\n /x /y\n%files\n # no\n  'b c' /b\n\n"
    assert define(tmp_path, text, **{"b c": "1"}).copied == (tmp_path / "b c",)


def test_directories_and_patterns_name_all_their_files(tmp_path):
    (tmp_path / "d").mkdir()
    for name in ("d/1", "d/2", "x.txt", "y.txt"):
        (tmp_path / name).write_text("")
    found = define(tmp_path, "%files\n d /d\n *.txt /t\n").copied
    assert [path.name for path in found] == ["1", "2", "x.txt", "y.txt"]


def test_a_copied_file_that_is_missing_is_said_before_anything_is_fetched(tmp_path):
    with pytest.raises(InputError, match=r"mine\.def copies gone, which is not there"):
        define(tmp_path, "%files\n gone /gone\n").digest({})


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("MirrorURL: {{ mirror }}\n", {"mirror"}),
        ("%arguments\n  mirror=x\n%post\n echo {{mirror}} {{ other }}\n", {"other"}),
        ("%post\n echo ${HOME}\n", set()),
    ],
)
def test_arguments_without_a_default_are_asked_for(text, asked):
    assert Definition(Path("x.def"), text).arguments == asked


def test_the_machine_s_sources_go_to_definitions_that_ask_for_them(tmp_path):
    assert find_definition("train").mentions(PIP_CONF)
    assert find_definition("train-cpu").mentions(PIP_CONF)
    assert not define(tmp_path, "Bootstrap: scratch\n%files\n a /a\n", a="x").mentions(PIP_CONF)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'train-cpu'"):
        find_definition("train_cpu")
