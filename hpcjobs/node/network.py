"""Which network interface the processes of a run talk over, where the user chose none."""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Mapping

_GLOO, _NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"
_SIOCGIFADDR = 0x8915  # netdevice(7)
_ANY_PORT = 9


def network_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that name the interface with the route to MASTER_ADDR.

    Left to themselves, gloo takes the interface of the host's name, which Debian maps to
    127.0.1.1, and NCCL may take a bridge of virtual machines. NCCL prefers InfiniBand's
    interfaces by itself, which a management network's address must not take away from it. A run
    that stays on the loopback is left alone, and so is whatever the user has set.
    """
    name = interface_to(environment.get("MASTER_ADDR", ""))
    if name is None or name == "lo":
        return {}
    wanted = {_GLOO: name}
    if not any(other.startswith("ib") for other in interface_addresses()):
        wanted[_NCCL] = f"={name}"  # the sign: this name, not all that begin with it
    return {key: value for key, value in wanted.items() if key not in environment}


def interface_to(host: str) -> str | None:
    """The interface that packets to a host leave by; None where that cannot be known.

    >>> interface_to("127.0.0.1"), interface_to("")
    ('lo', None)
    """
    address = _local_address(host) if host else None
    if address is None or address.startswith("127."):
        return address and "lo"
    names = [name for name, own in interface_addresses().items() if own == address]
    return names[0] if names else None


def interface_addresses() -> dict[str, str]:
    """The first IPv4 address of every interface that has one and is up."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
            except OSError:  # has none
                continue
            found[name] = socket.inet_ntoa(answer[20:24])
    return found


def _local_address(host: str) -> str | None:
    """The address that packets to a host carry; nothing is sent, only the route is looked up."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, _ANY_PORT))
            return str(probe.getsockname()[0])
    except OSError:
        return None
