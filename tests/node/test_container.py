"""The start of a training process: what does not need a container program."""

import socket
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcjobs.node import network
from hpcjobs.node.container import check_container, mount_word, process_command, start_failure
from hpcjobs.node.network import interface_addresses, network_environment
from hpcjobs.run.container_plan import Mount
from hpcjobs.run.errors import ConfigError
from hpcjobs.run.launch import Launch


def launch_of(container=None):
    return Launch(
        python=sys.executable, nodes=1, processes_per_node=1, cpus_per_node=1, requeue=True,
        env={}, env_file=None, code="/run dir/train.zip", container=container,
    )  # fmt: skip


def test_without_a_container_the_nodes_python_runs_the_runs_own_code(tmp_path):
    launch = launch_of()
    check_container(launch)
    environment = {"RANK": "0", "PATH": "/bin"}
    command = process_command(launch, ["--attempt", "1"], environment, {"KEY": "x"}, tmp_path)
    assert command.argv == [sys.executable, "/run dir/train.zip", "--attempt", "1"]
    assert command.env == {"RANK": "0", "PATH": "/bin", "KEY": "x"}


def test_a_launch_file_of_another_version_is_told():
    with pytest.raises(ConfigError, match="submit the run again"):
        check_container(launch_of({"kind": "apptainer", "seal": None, "mounts": []}))


def test_a_process_without_a_container_cannot_blame_one(tmp_path):
    log = tmp_path / "log"
    log.write_text("FATAL: \n")
    assert start_failure(launch_of(), 255, log) is None


@given(st.text(st.characters(exclude_categories=("Cs", "Cc"))), st.booleans())
def test_any_path_is_one_field_of_a_mount(path, read_only):
    import csv

    fields = next(csv.reader([mount_word(Mount(f"/{path}", "/d", read_only))]))
    wanted = ["type=bind", f"source=/{path}", "destination=/d"]
    assert fields == [*wanted, *(["ro"] if read_only else [])]


class TestInterfaces:
    @pytest.fixture
    def interfaces(self, monkeypatch):
        """A node whose host name leads to eth1; the kernel's own answers come from this one."""
        names = {"lo": "127.0.0.1", "eth0": "10.0.0.7", "eth1": "10.1.0.7", "virbr0": "192.168.0.1"}
        monkeypatch.setattr(network, "interface_addresses", lambda: names)
        monkeypatch.setattr(network, "_local_address", lambda host: "10.1.0.7")
        return names

    def test_the_one_with_the_route_to_the_master_is_named(self, interfaces):
        found = network_environment({"MASTER_ADDR": "node1"})
        assert found == {"GLOO_SOCKET_IFNAME": "eth1", "NCCL_SOCKET_IFNAME": "=eth1"}

    def test_what_the_user_chose_stays(self, interfaces):
        chosen = {"MASTER_ADDR": "node1", "NCCL_SOCKET_IFNAME": "hsn"}
        assert network_environment(chosen) == {"GLOO_SOCKET_IFNAME": "eth1"}

    def test_nccl_keeps_its_preference_for_infiniband(self, interfaces):
        interfaces["ib0"] = "10.2.0.7"
        assert network_environment({"MASTER_ADDR": "node1"}) == {"GLOO_SOCKET_IFNAME": "eth1"}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "", "no-such-host.invalid"])
def test_the_loopback_and_the_unknown_are_left_alone(host):
    assert network_environment({"MASTER_ADDR": host}) == {}


def test_the_kernel_names_the_interface_of_this_machines_own_address():
    others = {name: own for name, own in interface_addresses().items() if name != "lo"}
    assert interface_addresses().get("lo") == "127.0.0.1"
    for name, address in others.items():
        assert socket.inet_aton(address)
        assert network.interface_to(address) in others, name
