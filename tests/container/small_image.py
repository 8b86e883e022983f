"""A small image of this machine's own Python, made in seconds: for everything but training."""

import os
import re
import shutil
import subprocess
from pathlib import Path

PYTHON = Path("/usr/bin/python3")
LEFT_OUT = ("test", "idlelib", "tkinter", "ensurepip", "lib2to3", "__pycache__", "pydoc_data")
PLACES = ("proc", "sys", "dev", "tmp", "root", "home", "var/tmp", "etc", "usr/lib64", "usr/bin")
LINKS = {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"}
_LIBRARY = re.compile(r"(/\S+\.so\S*) \(0x")


def make_sandbox(path: Path) -> Path:
    """A directory that Apptainer runs: the interpreter, its library, sh, and what they link to."""
    for place in PLACES:
        (path / place).mkdir(parents=True)
    for name, target in LINKS.items():
        (path / name).symlink_to(target)
    for name in ("passwd", "group", "resolv.conf", "localtime", "hosts"):
        (path / "etc" / name).touch()
    real = PYTHON.resolve()
    library = Path("/usr/lib") / real.name
    shutil.copytree(library, path / "usr/lib" / real.name, symlinks=False,
                    ignore=shutil.ignore_patterns(*LEFT_OUT), ignore_dangling_symlinks=True)  # fmt: skip
    programs = [real, Path("/bin/sh").resolve()]
    for program in programs:
        shutil.copy2(program, path / "usr/bin")
    (path / "usr/bin/python3").symlink_to(real.name)
    if not (path / "usr/bin/sh").exists():
        (path / "usr/bin/sh").symlink_to(programs[1].name)
    for linked in _libraries([*programs, *library.glob("lib-dynload/*.so")]):
        shutil.copy2(linked, path / ("usr/lib64" if "ld-linux" in linked.name else "usr/lib"))
    path.chmod(0o755)
    return path


def make_sif(sandbox: Path, sif: Path) -> Path:
    """The same as one file."""
    words = ["apptainer", "build", "--mksquashfs-args", "-comp zstd -Xcompression-level 1"]
    fakeroot = ["--fakeroot"] if os.geteuid() == 0 else []
    subprocess.run([*words, *fakeroot, sif, sandbox], check=True, capture_output=True)
    sif.chmod(0o644)
    return sif


def _libraries(files: list[Path]) -> set[Path]:
    said = subprocess.run(["ldd", *files], capture_output=True, text=True, check=False).stdout
    return {Path(path) for path in _LIBRARY.findall(said)}
