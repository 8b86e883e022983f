"""``python -m hpcjobs.prefetch``: fetches a model on the login node for nodes without a network.

A training only ever reads a directory (``model.path``). This command makes one out of a name on
the Hugging Face Hub: weights as safetensors, configuration and tokenizer. Nothing that is a
pickle, and no program, is fetched.
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hpcjobs.login import door
from hpcjobs.login.console import make_console
from hpcjobs.login.override_word import override_word
from hpcjobs.run.errors import ConfigError, InputError
from hpcjobs.run.files import write_json

if TYPE_CHECKING:
    from huggingface_hub import HfApi

WANTED = ("*.safetensors", "*.json")
ORIGIN = "hpcjobs-origin.json"
"""Says in the directory where its files came from, and in which revision."""

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_EXAMPLES = """\
examples:
  python -m hpcjobs.prefetch YanweiLi/MGM-2B
  python -m hpcjobs.prefetch YanweiLi/MGM-2B --revision 1.0 --to /shared/models/mgm-2b

Takes HF_HOME, HF_ENDPOINT and HF_TOKEN from the environment; the token is never written down.
"""


def prefetch(argv: Sequence[str]) -> int:
    """Fetches a model and prints the override that uses it; returns the exit code.

    Raises:
        ConfigError: the name is no name on the Hub.
        InputError: it is not there, holds no safetensors, or cannot be fetched.
    """
    words = _parser().parse_args(argv)
    if not _NAME.fullmatch(words.name):
        raise ConfigError(f"{words.name!r} is no name on the Hub: write OWNER/MODEL")
    target = (words.to or hub_home() / "hpcjobs" / words.name).absolute()
    revision = fetch(words.name, words.revision, target)
    console = make_console()
    console.print(f"{words.name} at {revision} is in {target}", markup=False, soft_wrap=True)
    console.print("submit with:", markup=False)
    sys.stdout.write(f"  {override_word('model.path', target)}\n")
    return 0


def hub_home() -> Path:
    """Where Hugging Face's own tools keep things: ``HF_HOME``, else the user's cache."""
    if given := os.environ.get("HF_HOME"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"


def fetch(name: str, revision: str | None, target: Path) -> str:
    """Fetches a model's safetensors, configuration and tokenizer; returns the commit.

    What is there already is not fetched again; a file that was torn off is continued.

    Args:
        name: ``OWNER/MODEL``.
        revision: branch, tag or commit; None is the main branch.
        target: the directory that will hold the files.

    Raises:
        InputError: the Hub does not answer, does not have it, or has only pickles.
    """
    hub = _hub()
    # HTTPError is that of the HTTP library which this version of the Hub's client uses.
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        commit = _commit_with_weights(hub, name, revision)
        hub.snapshot_download(name, revision=commit, local_dir=target, allow_patterns=list(WANTED))
    except GatedRepoError as error:
        raise InputError(
            f"{name} is given out on request: ask for it on its page, then set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(f"{name} has no revision {revision!r}") from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{hub.endpoint} knows no model {name}, or does not show it to you: check the name, "
            f"and HF_TOKEN if it is private"
        ) from error
    except HfHubHTTPError as error:
        raise InputError(
            f"{hub.endpoint} refuses: {_first_line(error)}; try again later"
        ) from error
    except (HTTPError, LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        raise InputError(
            f"cannot reach {hub.endpoint}: {_first_line(error)}; is this the login node, and is "
            f"HF_HUB_OFFLINE unset?"
        ) from error
    write_json(target / ORIGIN, {"name": name, "commit": commit, "endpoint": hub.endpoint})
    return commit


def _commit_with_weights(hub: "HfApi", name: str, revision: str | None) -> str:
    """The commit that a revision means now; files could change between two requests otherwise."""
    info = hub.model_info(name, revision=revision)
    files = [file.rfilename for file in info.siblings or ()]
    if not any(file.endswith(".safetensors") for file in files):
        raise InputError(
            f"{name} holds no safetensors: a pickle can run code when it is read, so it is not "
            f"fetched; look for a converted copy"
        )
    if info.sha is None:
        raise InputError(f"{hub.endpoint} does not say which commit of {name} it has")
    return info.sha


def _hub() -> "HfApi":
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise InputError(
            "huggingface_hub is not installed here: pip install 'hpcjobs[train]', or fetch the "
            "model elsewhere"
        ) from error
    return HfApi(library_name="hpcjobs")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _parser() -> argparse.ArgumentParser:
    parser = door.parser(
        "prefetch", "Fetches a model from the Hugging Face Hub for offline nodes.", _EXAMPLES
    )
    parser.add_argument("name", metavar="OWNER/MODEL")
    parser.add_argument("--revision", help="branch, tag or commit; default: the main branch")
    parser.add_argument("--to", type=Path, metavar="DIR", help="default: a directory in HF_HOME")
    return parser
