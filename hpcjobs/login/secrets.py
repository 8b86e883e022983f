"""Keeps secrets out of everything that is written: scripts, configurations, records."""

import re
from collections.abc import Mapping

from hpcjobs.run.errors import ConfigError

_SECRET_NAME = re.compile(r"(?i)token|secret|passw(?:or)?d|api_?key|credential|private_?key")
_ASSIGNMENT = re.compile(r"(?i)\b(\w*(?:token|secret|passw(?:or)?d|api_?key|credentials?))=\S")
# Published prefixes of access tokens: Hugging Face, GitHub, OpenAI, AWS, Slack, GitLab.
_TOKEN_SHAPE = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{20,}"
    r"|AKIA[A-Z0-9]{16}|xox[abprs]-[A-Za-z0-9-]{10,}|glpat-[A-Za-z0-9_-]{20})"
)
_SHORTEST_SECRET = 8
_REMEDY = "put it into a file of mode 0600 and set cluster.env_file"


def refuse_secrets(what: str, text: str, environment: Mapping[str, str]) -> None:
    """Refuses a text that is about to be written and holds a secret.

    Looks for assignments to secret-looking names, known token shapes, and the values of
    secret-looking variables of the submitting shell. The message never repeats the secret.

    Raises:
        ConfigError: the text holds one.
    """
    assignment = _ASSIGNMENT.search(text)
    if assignment:
        raise ConfigError(f"{what} assigns {assignment.group(1)} and is written to disk: {_REMEDY}")
    if _TOKEN_SHAPE.search(text):
        raise ConfigError(f"{what} holds an access token and is written to disk: {_REMEDY}")
    for name, value in environment.items():
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET and value in text:
            raise ConfigError(f"{what} holds the value of ${name}: {_REMEDY}")
