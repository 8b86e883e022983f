"""The nodes of an attempt look at the network between them: a ring, each link timed by itself.

The first node keeps the meeting place. Every node tells it where it listens, compares clocks with
it, and hears whom to send to. Then all send a payload to the next at the same time: who receives
times it from the first byte to the last and compares the checksum.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import threading
import time
import zlib
from dataclasses import dataclass, replace
from typing import Any

PAYLOAD_BYTES = 8 << 20
_CHUNK_BYTES = 1 << 18
_LINE_BYTES = 4096
_RETRY_S = 0.05
_MIB = 1 << 20


@dataclass(frozen=True)
class Ring:
    """What all nodes of an attempt read before they meet."""

    host: str
    port: int
    token: str
    """Keeps strangers out of the ring; it protects nothing else."""
    nodes: int


@dataclass(frozen=True)
class Link:
    """What a node learned of the network; None is not known."""

    clock_offset_s: float | None = None
    source: int | None = None
    mib_s: float | None = None
    error: str | None = None
    """The meeting place could not be reached, or what came was damaged."""
    missing: tuple[int, ...] = ()
    """Nodes that did not come to the meeting place in time."""


def new_ring(host: str, port: int, nodes: int) -> Ring:
    """A ring for one attempt."""
    return Ring(host, port, secrets.token_hex(8), nodes)


def join_ring(ring: Ring, node: int, timeout_s: float) -> Link:
    """Takes part as one node, and keeps the meeting place as the first one.

    Returns within about twice the time limit, whatever the others do.
    """
    deadline = time.monotonic() + timeout_s
    if node == 0:
        try:
            meeting = socket.create_server(("", ring.port), backlog=ring.nodes)
        except OSError as error:
            return Link(error=f"cannot listen on port {ring.port}: {error.strerror}")
        threading.Thread(target=_keep_meeting, args=(meeting, ring, deadline), daemon=True).start()
    try:
        return _take_part(ring, node, deadline)
    except (OSError, ValueError, KeyError) as error:
        return Link(error=f"the first node, {ring.host}:{ring.port}, cannot be reached: {error}")


def _take_part(ring: Ring, node: int, deadline: float) -> Link:
    with _connect(ring.host, ring.port, deadline) as hub:
        own = hub.getsockname()[0]  # the interface that leads to the others
        family = socket.AF_INET6 if ":" in own else socket.AF_INET
        with socket.create_server((own, 0), family=family) as listener:
            sent = time.time()
            _say(hub, {"ring": ring.token, "node": node, "port": listener.getsockname()[1]})
            clock = float(_hear(hub)["clock"])
            offset = clock - (sent + time.time()) / 2
            hub.settimeout(max(0.1, 2 * (deadline - time.monotonic())))
            plan = _hear(hub)
            link = Link(clock_offset_s=offset, missing=tuple(plan["missing"]))
            if plan["next"] is None:
                return link
            return _exchange(ring, node, listener, plan, link)


def _exchange(
    ring: Ring, node: int, listener: socket.socket, plan: dict[str, Any], link: Link
) -> Link:
    """Sends to the next and receives from the one before, at the same time."""
    timeout_s = float(plan["timeout_s"])
    sender = threading.Thread(
        target=_send_payload, args=(ring, node, plan["next"], timeout_s), daemon=True
    )
    sender.start()
    try:
        source, seconds, checksum = _receive_payload(ring, listener, timeout_s)
    except (OSError, ValueError, KeyError) as error:
        return replace(link, source=plan["before"], mib_s=0.0, error=f"no data came: {error}")
    sender.join(timeout_s)
    damaged = None if checksum == zlib.crc32(_payload()) else "the data came damaged"
    mib_s = PAYLOAD_BYTES / _MIB / max(seconds, 1e-6)
    return replace(link, source=source, mib_s=mib_s, error=damaged)


def _keep_meeting(meeting: socket.socket, ring: Ring, deadline: float) -> None:
    """Waits for all nodes until the deadline and tells each whom to send to."""
    guests: dict[int, tuple[socket.socket, str, int]] = {}
    with meeting:
        while len(guests) < ring.nodes and (left := deadline - time.monotonic()) > 0:
            meeting.settimeout(left)
            try:
                guest, address = meeting.accept()
            except OSError:
                break
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                guest.settimeout(min(2.0, left))
                hello = _hear(guest)
                if hello["ring"] == ring.token and 0 <= int(hello["node"]) < ring.nodes:
                    _say(guest, {"clock": time.time()})
                    guests[int(hello["node"])] = (guest, address[0], int(hello["port"]))
    _tell_neighbours(guests, ring, max(1.0, deadline - time.monotonic()))


def _tell_neighbours(
    guests: dict[int, tuple[socket.socket, str, int]], ring: Ring, timeout_s: float
) -> None:
    order = sorted(guests)
    missing = [node for node in range(ring.nodes) if node not in guests]
    for index, node in enumerate(order):
        after = order[(index + 1) % len(order)]
        alone = len(order) < 2
        with contextlib.suppress(OSError):
            _say(
                guests[node][0],
                {
                    "next": None if alone else [guests[after][1], guests[after][2]],
                    "before": order[index - 1],
                    "missing": missing,
                    "timeout_s": timeout_s,
                },
            )
        guests[node][0].close()


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    """Connects as soon as the other side listens.

    Raises:
        OSError: it does not until the deadline.
    """
    while True:
        left = deadline - time.monotonic()
        try:
            return socket.create_connection((host, port), timeout=max(0.1, left))
        except OSError:
            if left <= 0:
                raise
            time.sleep(_RETRY_S)


def _send_payload(ring: Ring, node: int, to: list[Any], timeout_s: float) -> None:
    with (
        contextlib.suppress(OSError),
        _connect(str(to[0]), int(to[1]), time.monotonic() + timeout_s) as wire,
    ):
        _say(wire, {"ring": ring.token, "node": node})
        wire.sendall(_payload())


def _receive_payload(
    ring: Ring, listener: socket.socket, timeout_s: float
) -> tuple[int, float, int]:
    """Source, seconds from the first byte to the last, and checksum of what came.

    Raises:
        OSError: nothing came in time.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        listener.settimeout(max(0.1, deadline - time.monotonic()))
        wire, _ = listener.accept()
        with wire:
            wire.settimeout(max(0.1, deadline - time.monotonic()))
            hello = _hear(wire)
            if hello.get("ring") != ring.token:
                continue
            started = time.perf_counter()
            left, checksum = PAYLOAD_BYTES, 0
            while left > 0:
                chunk = wire.recv(min(_CHUNK_BYTES, left))
                if not chunk:
                    raise OSError("the connection broke off")
                checksum = zlib.crc32(chunk, checksum)
                left -= len(chunk)
            return int(hello["node"]), time.perf_counter() - started, checksum


def _payload() -> bytes:
    return bytes(range(256)) * (PAYLOAD_BYTES // 256)


def _say(wire: socket.socket, value: dict[str, Any]) -> None:
    wire.sendall(json.dumps(value).encode() + b"\n")


def _hear(wire: socket.socket) -> dict[str, Any]:
    """Reads one line, byte by byte so that nothing after it is taken.

    Raises:
        ValueError: no JSON object of a sensible length came.
    """
    line = b""
    while not line.endswith(b"\n"):
        byte = wire.recv(1)
        if not byte or len(line) > _LINE_BYTES:
            raise ValueError("no line came")
        line += byte
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError("no JSON object came")  # noqa: TRY004 - what came, not what was passed
    return value
