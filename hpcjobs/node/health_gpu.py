"""What a node's cards say of themselves: nvidia-smi's XML, the device files, the kernel's log."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from hpcjobs.node.health_finding import Finding, State
from hpcjobs.run.health_config import HealthSettings

XIDS_OF_A_SICK_NODE = {
    48: "double-bit ECC error",
    62: "micro-controller halt",
    64: "row remapping or page retirement failed",
    74: "NVLink error",
    79: "the card has fallen off the bus",
    95: "uncontained memory error",
    109: "context switch timeout",
    119: "GSP firmware does not answer",
    120: "GSP firmware error",
    140: "unrecovered ECC error",
    143: "the card did not initialise",
    149: "NVLink 5 error",
}
"""NVIDIA's Xid catalog (docs.nvidia.com/deploy/xid-errors): those whose action is to reset the
card, to restart the machine or to look at NVLink. Xids of programs (13, 31, 43, 45) say nothing."""
_XID = re.compile(r"^\[\s*(\d+)\.\d+\].*NVRM: Xid \([^)]*\): (\d+)\b", re.MULTILINE)
_XID_DAY_S = 86_400
_ASK_TIMEOUT_S = 30.0
_NOTHING = ("No", "None", "N/A", "")


@dataclass(frozen=True)
class Card:
    """One card of ``nvidia-smi -q -x``."""

    bus_id: str
    ecc_errors: int | None
    """Uncorrected errors since the driver was loaded; None where the card does not count them."""
    wants: str | None
    """What the driver asks for, such as a reset; None for nothing."""


def gpu_findings(expected: int | None, settings: HealthSettings) -> list[Finding]:
    """Looks at the cards; nothing is said where the training uses none.

    Args:
        expected: cards that the training will use; None where it takes what is there.
        settings: the limits.
    """
    if expected == 0:
        return []
    text = _output(["nvidia-smi", "-q", "-x"])
    cards = parse_cards(text) if text is not None else None
    return [visible(expected, cards), *card_findings(cards, settings), xid_finding()]


def parse_cards(text: str) -> list[Card] | None:
    """Reads ``nvidia-smi -q -x``; None where it is no such document."""
    try:
        root = ET.fromstring(text)  # noqa: S314 - the driver's own tool wrote it
    except ET.ParseError:
        return None
    if root.tag != "nvidia_smi_log":
        return None
    return [_card(gpu) for gpu in root.findall("gpu")]


def _card(gpu: ET.Element) -> Card:
    counts = [
        int(element.text or "")
        for element in gpu.iterfind("ecc_errors/volatile//*")
        if _is_uncorrected(element.tag) and (element.text or "").strip().isdigit()
    ]
    old = gpu.findtext("ecc_errors/volatile/double_bit/total", "")  # cards before Ampere
    counts += [int(old)] if old.strip().isdigit() else []
    asks = {
        "a reset": gpu.findtext("gpu_reset_status/reset_required", ""),
        "draining and a reset": gpu.findtext("gpu_reset_status/drain_and_reset_recommended", ""),
        "a reset, since rows wait to be remapped": gpu.findtext(
            "remapped_rows/remapped_row_pending", ""
        ),
        "to be replaced, since rows could not be remapped": gpu.findtext(
            "remapped_rows/remapped_row_failure", ""
        ),
    }
    wants = [words for words, answer in asks.items() if answer.strip() == "Yes"]
    action = gpu.findtext("gpu_recovery_action", "").strip()
    wants += [action] if action not in _NOTHING else []
    return Card(gpu.get("id", "?"), sum(counts) if counts else None, " and ".join(wants) or None)


def _is_uncorrected(tag: str) -> bool:
    return "uncorrectable" in tag


def visible(expected: int | None, cards: Sequence[Card] | None) -> Finding:
    """Whether the node shows as many cards as the training will use."""
    count = len(cards) if cards is not None else _device_files()
    if expected is None:
        return Finding("gpus", "ok", f"{count} cards visible, as many as are there are used", count)
    state: State = "ok" if count >= expected else "bad"
    return Finding("gpus", state, f"{count} of {expected} cards visible", count, expected)


def card_findings(cards: Sequence[Card] | None, settings: HealthSettings) -> list[Finding]:
    """Errors that the cards count, and what their driver asks for."""
    if not cards:
        return [Finding("ecc", "unknown", "no nvidia-smi that answers: nothing known of errors")]
    worst = max(cards, key=lambda card: card.ecc_errors or 0)
    limit = settings.ecc_errors_max
    found = []
    if all(card.ecc_errors is None for card in cards):
        found.append(Finding("ecc", "unknown", "the cards count no memory errors", None, limit))
    else:
        errors = worst.ecc_errors or 0
        said = f"{errors} uncorrected memory errors on card {worst.bus_id}"
        state: State = "bad" if errors > limit else "ok"
        found.append(Finding("ecc", state, said, errors, limit))
    asking = [card for card in cards if card.wants]
    return found + [
        Finding("recovery", "bad", f"card {card.bus_id} needs {card.wants}") for card in asking
    ]


def xid_finding() -> Finding:
    """Errors of the last day in the kernel's log, which ordinary users can often not read."""
    text = _output(["dmesg"])
    uptime = _uptime_s()
    if text is None or uptime is None:
        return Finding("xid", "unknown", "the kernel's log cannot be read: Xids are not known")
    xids = [xid for xid, age_s in parse_xids(text, uptime) if age_s < _XID_DAY_S]
    sick = [xid for xid in xids if xid in XIDS_OF_A_SICK_NODE]
    if sick:
        last = sick[-1]
        return Finding("xid", "bad", f"Xid {last} in the last day: {XIDS_OF_A_SICK_NODE[last]}")
    return Finding("xid", "ok", "no Xid of a sick card in the last day", len(xids))


def parse_xids(text: str, uptime_s: float) -> list[tuple[int, float]]:
    """The Xids of the kernel's log with their ages in seconds.

    >>> parse_xids("[ 90.5] NVRM: Xid (PCI:0000:3b:00): 79, pid=1, GPU has fallen off", 100.0)
    [(79, 10.0)]
    """
    return [(int(xid), uptime_s - int(at_s)) for at_s, xid in _XID.findall(text)]


def _device_files() -> int:
    return sum(1 for path in Path("/dev").glob("nvidia[0-9]*"))


def _uptime_s() -> float | None:
    try:
        return float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return None


def _output(argv: Sequence[str]) -> str | None:
    """What a command prints; None where it is missing, fails or hangs."""
    try:
        done = subprocess.run(
            list(argv), capture_output=True, timeout=_ASK_TIMEOUT_S, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None
