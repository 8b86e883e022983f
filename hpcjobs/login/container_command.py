"""``python -m hpcjobs.container``: builds, verifies, signs and describes images."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from hpcjobs.login import door
from hpcjobs.login.build_progress import BuildProgress
from hpcjobs.login.console import make_console
from hpcjobs.login.container_build import Build, build_image
from hpcjobs.login.container_definition import find_definition, shipped_definitions
from hpcjobs.login.container_facts import image_cache, image_facts
from hpcjobs.login.container_shell import shell_binds, shell_words
from hpcjobs.login.container_trust import (
    GPU_DEVICE,
    default_key,
    make_key,
    public_path,
    run_test,
    sign,
    verify_digest,
    verify_signature,
)
from hpcjobs.run.container_program import detect
from hpcjobs.run.errors import ConfigError, InputError
from hpcjobs.run.files import make_private_dir

_GIB = 1 << 30
_EXAMPLES = """\
examples:
  python -m hpcjobs.container build
  image=$(python -m hpcjobs.container build train-cpu)
  python -m hpcjobs.container build mine.def --output /shared/images/mine.sif --shared
  python -m hpcjobs.container verify "$image"

exit codes: 0 done, 2 wrong words, 3 the image, the build or the disk fails
"""


def container(argv: Sequence[str]) -> int:
    """Runs one of the container commands; returns the exit code.

    Raises:
        HpcjobsError: everything that a user can mend.
    """
    words = _parser().parse_args(argv)
    return int(words.command(words))


def _build(words: argparse.Namespace) -> int:
    definition = find_definition(words.definition)
    build = Build(
        definition,
        _target(words, definition.name),
        sandbox=words.sandbox is not None,
        force=words.force,
        shared=words.shared,
        tmpdir=words.tmpdir,
        given=_arguments(words.arg),
    )
    console = Console(stderr=True, highlight=False, emoji=False)
    progress = BuildProgress(console, build.log)
    with progress.shown():
        record = build_image(build, detect(), progress)
    console.print(
        f"{record.size_bytes / _GIB:.2f} GiB, sha256 {record.sha256}", markup=False, soft_wrap=True
    )
    sys.stdout.write(f"{build.target}\n")
    return 0


def _verify(words: argparse.Namespace) -> int:
    program, console = detect(), make_console()
    record = verify_digest(words.image)
    console.print(f"digest     as recorded: {record.sha256}", markup=False, soft_wrap=True)
    key = words.key
    own = public_path(default_key())
    if key is None and record.signed_with is not None and own.is_file():
        key = own
    signed = verify_signature(program, words.image, key)
    console.print(f"signature  {'good' if signed else 'none'}")
    if not words.no_test:
        last = run_test(program, words.image).strip().splitlines()[-1:]
        console.print(f"test       passed{': ' if last else ''}{''.join(last)}", markup=False)
    return 0


def _sign(words: argparse.Namespace) -> int:
    console = make_console()
    if words.key is None and not default_key().exists():
        make_key(default_key())
        console.print(f"made the key {default_key()}", markup=False, soft_wrap=True)
    record = sign(detect(), words.image, words.key or default_key())
    console.print(f"signed; sha256 is now {record.sha256}", soft_wrap=True)
    return 0


def _info(words: argparse.Namespace) -> int:
    facts = image_facts(words.image)
    if words.json:
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
        return 0
    console = make_console()
    for name, value in facts.items():
        for place, line in enumerate(_lines(value)):
            head = name.replace("_", " ") if place == 0 else ""
            console.print(f"{head:<18}{line}", markup=False, soft_wrap=True)
    return 0


def _shell(words: argparse.Namespace) -> int:
    if not words.image.exists():
        raise InputError(f"there is no image {words.image}")
    binds = shell_binds(words.bind, os.environ, Path.cwd())
    command = shell_words(
        detect(), words.image.absolute(), binds, os.environ, gpu=GPU_DEVICE.exists()
    )
    sys.stdout.flush()
    os.execvp(command[0], command)  # noqa: S606 - a list, no shell


def _target(words: argparse.Namespace, name: str) -> Path:
    place: Path | None = words.sandbox or words.output
    if place is not None:
        return place.absolute()
    make_private_dir(image_cache())
    return image_cache().absolute() / f"{name}.sif"


def _arguments(words: Sequence[str]) -> dict[str, str]:
    pairs = [word.partition("=") for word in words]
    for name, sign_, _ in pairs:
        if not name or not sign_:
            raise ConfigError(f"--arg {name}: write NAME=VALUE")
    return {name: value for name, _, value in pairs}


def _lines(value: object) -> list[str]:
    if isinstance(value, dict):
        return [f"{name} {value[name]}" for name in sorted(value)] or ["none"]
    return ["unknown" if value is None else str(value)]


def _parser() -> argparse.ArgumentParser:
    parser = door.parser("container", "Builds, verifies and describes container images.", _EXAMPLES)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_build(commands.add_parser("build", help="build an image, or find it in the cache"))
    verify = commands.add_parser("verify", help="digest, signature and test of an image")
    verify.add_argument("--key", type=Path, metavar="PUB", help="public key (PEM) that must fit")
    verify.add_argument("--no-test", action="store_true", help="leave out the image's own test")
    signing = commands.add_parser("sign", help="sign an image with a key of your own")
    signing.add_argument("--key", type=Path, help="private key (PEM); made when there is none")
    info = commands.add_parser("info", help="labels, versions, digest and size")
    info.add_argument("--json", action="store_true", help="for programs")
    shell = commands.add_parser("shell", help="a shell inside an image")
    shell.add_argument("--bind", action="append", default=[], metavar="PATH", help="see it inside")
    for command, function in ((verify, _verify), (signing, _sign), (info, _info), (shell, _shell)):
        command.add_argument("image", type=Path, metavar="IMAGE")
        command.set_defaults(command=function)
    return parser


def _add_build(build: argparse.ArgumentParser) -> None:
    names = ", ".join(shipped_definitions())
    build.add_argument(
        "definition", nargs="?", default="train", metavar="NAME|FILE.def", help=f"{names}, or yours"
    )
    place = build.add_mutually_exclusive_group()
    place.add_argument("--output", type=Path, metavar="FILE", help="instead of the cache")
    place.add_argument("--sandbox", type=Path, metavar="DIR", help="a directory instead of a file")
    build.add_argument("--force", action="store_true", help="build it even if it is there")
    build.add_argument("--shared", action="store_true", help="others may read the image")
    build.add_argument("--tmpdir", type=Path, metavar="DIR", help="node-local, large")
    build.add_argument(
        "--arg", action="append", default=[], metavar="NAME=VALUE", help="for {{ NAME }}"
    )
    build.set_defaults(command=_build)
