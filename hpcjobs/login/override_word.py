"""Writes override words in Hydra's grammar, for messages that users copy."""

import re

_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+-]+")


def override_word(key: str, value: object) -> str:
    r"""Writes ``key=value``, quoted where Hydra's grammar needs it.

    >>> print(override_word("run_dir", "/scratch/it's here"))
    run_dir='/scratch/it\'s here'
    """
    text = str(value)
    if _PLAIN.fullmatch(text):
        return f"{key}={text}"
    escaped = re.sub(r"(\\*)'", lambda match: match.group(1) * 2 + "\\'", text)
    return f"{key}='{escaped}'"
