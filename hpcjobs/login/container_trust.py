"""Verifies and signs images: digest, signature, and the test that they carry."""

import hashlib
import os
import shutil
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

from hpcjobs.login.container_inspect import ask, is_signed, labels_of, last_line
from hpcjobs.run.container_program import Program
from hpcjobs.run.errors import InputError
from hpcjobs.run.files import PRIVATE_FILE, make_private_dir
from hpcjobs.run.image_record import (
    ImageRecord,
    check_digest,
    image_bytes,
    image_digest,
    read_record,
    write_record,
)

KEY_NAME = "image-key.pem"
GPU_DEVICE = Path("/dev/nvidiactl")
"""Exists where NVIDIA's driver runs: without it --nv would be silent and useless."""


def verify_digest(image: Path) -> ImageRecord:
    """Compares an image with its record.

    Raises:
        InputError: it has no record, or is not the image that was recorded.
    """
    record = read_record(image)
    if record is None:
        raise InputError(
            f"{image} has no record beside it ({image.name}.json): build it with "
            f"`python -m hpcjobs.container build`, or copy the record too"
        )
    check_digest(image, record.sha256)
    return record


def verify_signature(program: Program, image: Path, public: Path | None) -> bool:
    """Checks a signature, if the image has one; returns whether it has.

    Args:
        program: the container program.
        image: a SIF; a sandbox has no signature.
        public: PEM of the key that must have signed; None asks the program's own key ring.

    Raises:
        InputError: it is signed with another key, or changed since; or it is not signed although
            a key was named.
    """
    if not is_signed(program, image):
        if public is not None:
            raise InputError(f"{image} is not signed, although it should be with {public}")
        return False
    key = ["--key", str(_readable(public))] if public else []
    answer = ask(program, "verify", *key, str(image))
    if answer.returncode != 0:
        whose = f"by the key {public}" if public else "by a key that you know: name it with --key"
        raise InputError(f"{image} is not signed {whose} ({last_line(answer)})")
    return True


def run_test(program: Program, image: Path) -> str:
    """Runs the ``%test`` of an image and returns what it printed.

    Raises:
        InputError: it failed.
    """
    gpu = ["--nv"] if GPU_DEVICE.exists() else []
    answer = ask(program, "test", "--cleanenv", *gpu, str(image))
    if answer.returncode != 0:
        raise InputError(f"the test of {image} failed: {last_line(answer)}")
    return answer.stdout


def sign(program: Program, image: Path, key: Path) -> ImageRecord:
    """Signs an image with a private key in PEM, and records its new digest.

    Signing rewrites the file: it is done on a copy that then takes the image's place.

    Raises:
        InputError: the image is not the recorded one, a sandbox, or signed already; the key can
            be read by others; the program refuses.
    """
    record = verify_digest(image)
    if image.is_dir():
        raise InputError(f"{image} is a sandbox, which cannot be signed: build a SIF")
    if is_signed(program, image):
        raise InputError(f"{image} is signed already: build it again with --force for a new key")
    refuse_open_key(key)
    public = public_key(key)
    partial = image.with_name(f".{image.name}.{os.getpid()}.partial")
    try:
        shutil.copy2(image, partial)
        answer = ask(program, "sign", "--key", str(key), str(partial))
        if answer.returncode != 0:
            raise InputError(f"{program} does not sign {image}: {last_line(answer)}")
        signed = replace(
            record,
            sha256=image_digest(partial),
            size_bytes=image_bytes(partial),
            labels=labels_of(program, partial),
            signed_with=hashlib.sha256(public.encode()).hexdigest(),
        )
        partial.replace(image)
    finally:
        partial.unlink(missing_ok=True)
    write_record(image, signed)
    return signed


def default_key() -> Path:
    """Where a user's own key lies."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "hpcjobs" / KEY_NAME


def public_path(key: Path) -> Path:
    """Where the public half of a key is written."""
    return key.with_suffix(".pub")


def make_key(key: Path) -> None:
    """Makes a key pair (NIST P-256): the private half is the owner's alone, mode 0600.

    Raises:
        InputError: openssl is missing or fails.
    """
    make_private_dir(key.parent)
    text = _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout")
    descriptor = os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    public_path(key).write_text(public_key(key), encoding="utf-8")


def public_key(key: Path) -> str:
    """The public half of a private key, in PEM.

    Raises:
        InputError: it is no such key.
    """
    return _openssl("pkey", "-in", str(key), "-pubout")


def refuse_open_key(key: Path) -> None:
    """Refuses a private key that others can read.

    Raises:
        InputError: they can, or there is no such key.
    """
    mode = stat.S_IMODE(_readable(key).stat().st_mode)
    if mode & 0o077:
        raise InputError(f"{key} can be used by others (mode {mode:04o}): chmod 600 it")


def _readable(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"there is no key {path}")
    return path


def _openssl(*words: str) -> str:
    try:
        done = subprocess.run(
            ["openssl", *words], capture_output=True, text=True, check=False, timeout=60
        )
    except OSError as error:
        raise InputError(f"cannot run openssl: {error.strerror}; install it") from error
    if done.returncode != 0:
        raise InputError(f"openssl {words[0]} failed: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout
