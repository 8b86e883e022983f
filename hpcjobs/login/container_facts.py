"""What is known of an image, and where images lie that nobody gave a place."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpcjobs.login.container_inspect import is_signed, labels_of
from hpcjobs.run.container_program import detect
from hpcjobs.run.errors import InputError
from hpcjobs.run.image_record import image_bytes, image_digest, read_record


def image_facts(image: Path) -> dict[str, Any]:
    """What is known of an image; what is not known is None.

    Raises:
        InputError: it is no image.
    """
    if not image.exists():
        raise InputError(f"there is no image {image}")
    program, record = detect(), read_record(image)
    known = {} if record is None else asdict(record)
    return {
        "image": str(image),
        **dict.fromkeys(("definition", "definition_sha256", "program", "built_at", "built_by")),
        **known,
        "kind": "sandbox" if image.is_dir() else "sif",
        "size_bytes": image_bytes(image),
        "sha256": image_digest(image),
        "recorded_sha256": known.get("sha256"),
        "signed": is_signed(program, image),
        "labels": labels_of(program, image),
        "versions": known.get("versions", {}),
    }


def image_cache() -> Path:
    """Where images lie that nobody gave a place: ``HPCJOBS_IMAGES``, else the user's cache."""
    if given := os.environ.get("HPCJOBS_IMAGES"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hpcjobs" / "images"
