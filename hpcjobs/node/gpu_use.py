"""How busy this node's cards are, asked of the driver's tool without ever waiting for it."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping

_ANSWER_WITHIN_S = 20.0
_QUERY = ["nvidia-smi", "--query-gpu=index,utilization.gpu", "--format=csv,noheader,nounits"]


def parse_use(text: str) -> dict[str, float]:
    r"""Percent busy by card; a card whose use the driver does not tell is left out.

    >>> parse_use("0, 97\n1, [N/A]\n")
    {'0': 97.0}
    """
    found = {}
    for line in text.splitlines():
        card, _, percent = line.partition(",")
        try:
            found[card.strip()] = float(percent)
        except ValueError:
            continue
    return found


class CardUse:
    """Asks the driver's tool in the background: a broken driver can block it for ever."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Will ask for the cards of this job, which Slurm names in CUDA_VISIBLE_DEVICES."""
        cards = environment.get("CUDA_VISIBLE_DEVICES", "")
        self._command = [*_QUERY, f"--id={cards}"] if cards else _QUERY
        self._asked: subprocess.Popen[str] | None = None
        self._asked_s = 0.0
        self._absent = False

    def ask(self, now_s: float) -> None:
        """Asks again, unless an answer is still due or there is no such tool."""
        if self._absent or self._asked is not None:
            return
        try:
            self._asked = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            self._asked_s = now_s
        except OSError:
            self._absent = True

    def answer(self, now_s: float) -> dict[str, float] | None:
        """What has been answered since; None while nothing is known."""
        if self._asked is None:
            return None
        code = self._asked.poll()
        if code is None:
            if now_s - self._asked_s > _ANSWER_WITHIN_S:
                self._asked.kill()  # one that does not die is not asked a second time
            return None
        said, _ = self._asked.communicate()
        self._asked = None
        return parse_use(said) if code == 0 else None

    def close(self) -> None:
        """Leaves no question behind."""
        if self._asked is not None:
            self._asked.kill()
