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
    # Backslashes count only before a quote: within the value, or the one that ends it.
    escaped = re.sub(r"(\\*)(?:'|$)", lambda m: m[1] * 2 + ("\\'" if m[0] != m[1] else ""), text)
    return f"{key}='{escaped}'"
