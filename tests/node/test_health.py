"""The look at a node: what it reads, what it concludes, and the ring between real processes."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from hpcjobs.node import health_node, health_ring
from hpcjobs.node.health import network_findings
from hpcjobs.node.health_blame import hardware_errors, hardware_signature, parse_nodes
from hpcjobs.node.health_finding import Finding, Report, judge, read_report
from hpcjobs.node.health_gpu import gpu_findings, parse_cards, parse_xids
from hpcjobs.node.health_node import local_findings
from hpcjobs.node.health_ring import Link, Ring, join_ring, new_ring
from hpcjobs.run.files import make_private_dir
from hpcjobs.run.health_config import HealthSettings
from hpcjobs.run.launch import Launch
from hpcjobs.run.layout import RunDir

SETTINGS = HealthSettings()


def states(findings):
    return {item.name: item.state for item in findings}


# --- cards: an executable nvidia-smi stands in front of the PATH

CARD = """
  <gpu id="00000000:{bus}:00.0">
    <product_name>NVIDIA A100-SXM4-80GB</product_name>
    <gpu_reset_status><reset_required>{reset}</reset_required>
      <drain_and_reset_recommended>No</drain_and_reset_recommended></gpu_reset_status>
    <ecc_errors>
      <volatile>
        <sram_correctable>3</sram_correctable><sram_uncorrectable>{sram}</sram_uncorrectable>
        <dram_correctable>5</dram_correctable><dram_uncorrectable>{dram}</dram_uncorrectable>
      </volatile>
      <aggregate><dram_uncorrectable>7</dram_uncorrectable></aggregate>
    </ecc_errors>
    {rows}
  </gpu>"""
OLD_CARD = """
  <gpu id="00000000:06:00.0"><ecc_errors><volatile>
    <single_bit><total>9</total></single_bit><double_bit><total>2</total></double_bit>
  </volatile></ecc_errors></gpu>"""
ROWS = "<remapped_rows><remapped_row_pending>{}</remapped_row_pending></remapped_rows>"


def card(bus="01", reset="No", sram=0, dram=0, rows="<remapped_rows>N/A</remapped_rows>"):
    return CARD.format(bus=bus, reset=reset, sram=sram, dram=dram, rows=rows)


def document(*cards):
    return (
        '<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">\n'
        f"<nvidia_smi_log><attached_gpus>{len(cards)}</attached_gpus>{''.join(cards)}"
        "</nvidia_smi_log>"
    )


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Installs a program of that name; returns how to say what it prints."""

    def install(text, code=0):
        (tmp_path / "said.xml").write_text(text)
        program = tmp_path / "nvidia-smi"
        program.write_text(
            f'#!/bin/sh\n[ "$*" = "-q -x" ] && cat {tmp_path}/said.xml\nexit {code}\n'
        )
        program.chmod(0o700)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return install


@pytest.mark.parametrize(
    ("cards", "expected", "bad"),
    [
        ([card(), card("02")], 2, set()),
        ([card()], 2, {"gpus"}),
        ([card(), card("02")], 1, set()),  # a job with a part of the node's cards
        ([card(dram=1)], 1, {"ecc"}),
        ([card(sram=2)], 1, {"ecc"}),
        ([OLD_CARD], 1, {"ecc"}),
        ([card(reset="Yes")], 1, {"recovery"}),
        ([card(rows=ROWS.format("Yes"))], 1, {"recovery"}),
        ([card(rows=ROWS.format("No"))], None, set()),
        (["<gpu id='x'><gpu_recovery_action>Reboot</gpu_recovery_action></gpu>"], 1, {"recovery"}),
        ([], 1, {"gpus"}),
    ],
)
def test_what_the_cards_say_of_themselves(nvidia_smi, cards, expected, bad):
    nvidia_smi(document(*cards))
    found = gpu_findings(expected, SETTINGS)
    assert {item.name for item in found if item.state == "bad"} == bad


@pytest.mark.parametrize(("text", "code"), [("", 9), ("no xml", 0), ("<other/>", 0)])
def test_cards_that_cannot_be_asked_are_unknown_and_not_healthy(nvidia_smi, text, code):
    nvidia_smi(text, code)
    found = states(gpu_findings(0 + 4, SETTINGS))
    assert found["gpus"] == "bad"  # nor are there device files
    assert found["ecc"] == "unknown"


def test_a_card_that_counts_no_errors_is_unknown():
    (only,) = parse_cards(document("<gpu id='x'><ecc_errors><volatile/></ecc_errors></gpu>"))
    assert only.ecc_errors is None


def test_a_training_without_cards_asks_no_card():
    assert gpu_findings(0, SETTINGS) == []


DMESG = """\
[   12.000001] NVRM: loading NVIDIA UNIX x86_64 Kernel Module
[  500.250000] NVRM: Xid (PCI:0000:3b:00): 13, pid=77, Graphics Exception
[  900.500000] NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', GPU has fallen off the bus.
"""


def test_xids_are_read_with_their_age():
    assert parse_xids(DMESG, 1000.0) == [(13, 500.0), (79, 100.0)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered", "ECC"),
        (DMESG, "Xid 79"),
        ("Unable to determine the device handle for GPU 0000:3B:00.0: Unknown Error", "handle"),
        ("CUDA error: an illegal memory access was encountered", None),
        ("CUDA error: device-side assert triggered", None),
        ("NVRM: Xid (PCI:0000:3b:00): 31, pid=7, Ch 00000008", None),
        ("torch.OutOfMemoryError: CUDA out of memory.", None),
        ("", None),
    ],
)
def test_only_words_of_sick_hardware_count_in_a_log(text, said):
    found = hardware_signature(text)
    assert found is None if said is None else said in found


def test_a_sick_card_is_found_in_the_log_of_its_process_and_gives_the_node(tmp_path):
    run = RunDir(tmp_path)
    make_private_dir(run.attempt(1).path)
    for rank in range(4):
        words = "CUDA error: uncorrectable ECC error encountered" if rank == 2 else "fine"
        run.attempt(1).rank_log(rank).write_text("x" * 300_000 + f"\n{words}\n")
    launch = Launch("python", 2, 2, 1, True, {}, None)
    found = hardware_errors(run, launch, 1, nodes=2)
    assert found == {1: ("hardware", "rank 2: uncorrectable ECC error encountered")}


@pytest.mark.parametrize(
    ("state", "is_down"),
    [
        ("IDLE", False),
        ("MIXED+DRAIN", False),
        ("DOWN", True),
        ("DOWN*+DRAIN", True),
        ("IDLE*", True),
        ("FAILING", True),
        ("ALLOCATED+NOT_RESPONDING", True),
    ],
)
def test_a_node_is_down_when_slurm_has_lost_it_not_when_somebody_drains_it(state, is_down):
    text = f"NodeName=n1 Arch=x86_64 State={state} BootTime=2026-11-22T10:00:00 Reason=State=DOWN"
    view = parse_nodes(text)["n1"]
    assert view.is_down is is_down
    assert view.booted_s == time.mktime((2026, 11, 22, 10, 0, 0, 0, 0, -1))


# --- this node


def test_a_look_at_this_machine_finds_what_is_there(tmp_path):
    began = time.monotonic()
    found = local_findings(RunDir(tmp_path), 0, SETTINGS, {"TMPDIR": str(tmp_path)})
    assert time.monotonic() - began < 2
    figures = {"run_disk", "scratch", "shm", "memory"}
    assert states(found).keys() == figures | {"run_mount", "scratch_write"}
    assert all(item.value is not None for item in found if item.name in figures)


@pytest.mark.parametrize(
    ("changes", "bad"),
    [
        ({"run_free_gib": 1e9}, "run_disk"),
        ({"scratch_free_gib": 1e9}, "scratch"),
        ({"shm_free_gib": 1e9}, "shm"),
        ({"memory_free_gib": 1e9}, "memory"),
    ],
)
def test_a_figure_below_its_limit_is_bad_and_says_both(tmp_path, changes, bad):
    settings = dataclasses.replace(SETTINGS, **changes)
    found = {i.name: i for i in local_findings(RunDir(tmp_path), 0, settings, {})}
    assert found[bad].state == "bad"
    assert "at least 1e+09 needed" in found[bad].said
    assert found[bad].value < found[bad].limit


def test_places_that_are_not_there_are_bad(tmp_path):
    nowhere = {"SLURM_TMPDIR": str(tmp_path / "nowhere")}
    found = states(local_findings(RunDir(tmp_path / "gone"), 0, SETTINGS, nowhere))
    assert found["run_mount"] == found["scratch"] == found["scratch_write"] == "bad"


def test_memory_that_cannot_be_read_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(health_node, "_meminfo", lambda: "MemTotal: 5 kB\n")
    assert states(local_findings(RunDir(tmp_path), 0, SETTINGS, {}))["memory"] == "unknown"


# --- all nodes together

HOSTS = ["a", "b", "c", "d"]


def reports(bad=None, clocks=None, missing=()):
    """Four nodes; ``bad`` says who finds what, ``clocks`` how far a clock is ahead."""
    return {
        node: Report(
            node,
            host,
            tuple(Finding(name, "bad", f"{name} is bad") for name in (bad or {}).get(host, ())),
            clock_offset_s=-float((clocks or {}).get(host, 0.0)) if clocks else None,
        )
        for node, host in enumerate(HOSTS)
        if host not in missing
    }


@pytest.mark.parametrize(
    ("given", "unfit", "suspected", "everywhere"),
    [
        ({}, set(), set(), []),
        ({"bad": {"b": ["shm"]}}, {"b"}, set(), []),
        ({"bad": {"b": ["shm", "gpus"], "c": ["ecc"]}}, {"b", "c"}, set(), []),
        ({"bad": {key: ["run_disk"] for key in HOSTS}}, set(), set(), ["run_disk"]),
        ({"bad": {key: ["shm"] for key in HOSTS} | {"b": ["shm", "ecc"]}}, {"b"}, set(), ["shm"]),
        ({"bad": {"b": ["link"]}}, set(), {"b"}, []),
        ({"bad": {"b": ["run_disk"]}}, set(), set(), ["run_disk"]),  # all nodes write there
        ({"bad": {"b": ["run_mount"]}}, {"b"}, set(), []),
        ({"missing": ["d"]}, {"d"}, set(), []),
        ({"missing": HOSTS}, set(), set(), []),  # the look failed as a whole
        ({"bad": {"b": ["network"]}}, {"b"}, set(), []),
        ({"bad": {key: ["network"] for key in "bcd"}}, {"a"}, set(), []),  # none reaches the first
        ({"clocks": {"c": 3600.0}}, {"c"}, set(), []),
        ({"clocks": {"c": -3600.0}}, {"c"}, set(), []),
        ({"clocks": {"c": 29.0}}, set(), set(), []),
        ({"clocks": dict.fromkeys("bcd", -3600.0)}, {"a"}, set(), []),  # the broker's own is wrong
    ],
)  # fmt: skip
def test_a_node_is_unfit_for_what_is_wrong_with_it_alone(given, unfit, suspected, everywhere):
    conclusion = judge(HOSTS, reports(**given), SETTINGS)
    assert conclusion.unfit.keys() == unfit
    assert conclusion.suspected.keys() == suspected
    assert conclusion.everywhere == everywhere


def test_of_two_clocks_the_brokers_own_is_believed():
    two = {0: Report(0, "a", clock_offset_s=0.0), 1: Report(1, "b", clock_offset_s=100.0)}
    assert judge(["a", "b"], two, SETTINGS).unfit == {
        "b": "its clock is -100 s off, at most 30 s are allowed"
    }


def test_a_single_node_is_unfit_for_whatever_it_finds():
    one = {0: Report(0, "a", (Finding("shm", "bad", "full"),))}
    assert judge(["a"], one, SETTINGS).unfit == {"a": "full"}


def test_a_report_comes_back_from_json():
    report = Report(1, "b", (Finding("shm", "bad", "full", 0.0, 1.0),), 0.5, 0, 120.0, 0.1)
    assert read_report(json.loads(json.dumps(dataclasses.asdict(report)))) == report


# --- the ring, with one real process a node

TAKE_PART = """
import dataclasses, json, sys
from hpcjobs.node.health_ring import Ring, join_ring
ring, node, timeout = Ring(**json.loads(sys.argv[1])), int(sys.argv[2]), float(sys.argv[3])
print(json.dumps(dataclasses.asdict(join_ring(ring, node, timeout))))
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_ring(ring, nodes, timeout_s=20.0):
    words = json.dumps(dataclasses.asdict(ring))
    processes = {
        node: subprocess.Popen(
            [sys.executable, "-c", TAKE_PART, words, str(node), str(timeout_s)],
            stdout=subprocess.PIPE, text=True,
        )
        for node in nodes
    }  # fmt: skip
    said = {node: process.communicate(timeout=60)[0] for node, process in processes.items()}
    return {node: json.loads(text) for node, text in said.items()}


@pytest.mark.parametrize("nodes", [2, 5])
def test_every_node_hears_its_neighbour_and_compares_clocks(nodes):
    links = run_ring(new_ring("127.0.0.1", free_port(), nodes), range(nodes))
    for node, link in links.items():
        assert link["error"] is None, link
        assert link["source"] == (node - 1) % nodes
        assert link["mib_s"] > SETTINGS.link_mib_s
        assert abs(link["clock_offset_s"]) < 1
        assert link["missing"] == []


def test_a_node_that_does_not_come_is_named_and_the_others_close_the_ring():
    links = run_ring(new_ring("127.0.0.1", free_port(), 3), [0, 2], timeout_s=2.0)
    assert {node: link["missing"] for node, link in links.items()} == {0: [1], 2: [1]}
    assert links[0]["source"] == 2
    assert links[2]["source"] == 0


def test_a_meeting_place_that_cannot_be_reached_is_said_in_time():
    began = time.monotonic()
    link = join_ring(new_ring("127.0.0.1", free_port(), 2), 1, 0.5)
    assert time.monotonic() - began < 5
    assert "cannot be reached" in link.error
    assert network_findings(link, SETTINGS)[0].state == "bad"


def test_strangers_and_garbage_at_the_meeting_place_do_no_harm():
    ring = new_ring("127.0.0.1", free_port(), 2)
    hub = threading.Thread(target=join_ring, args=(ring, 0, 20.0))
    hub.start()
    for garbage in (b"", b"GET / HTTP/1.0\r\n\r\n", b"[1]\n", b'{"ring": "no"}\n', b"x" * 9000):
        with health_ring._connect("127.0.0.1", ring.port, time.monotonic() + 10) as wire:
            wire.sendall(garbage)
    intruder = run_ring(Ring(ring.host, ring.port, "wrong", 2), [1], timeout_s=1.0)
    assert intruder[1]["error"] is not None
    assert run_ring(ring, [1])[1]["source"] == 0
    hub.join(30)


@pytest.mark.parametrize(
    ("link", "state"),
    [
        (Link(0.0, 1, 900.0), "ok"),
        (Link(0.0, 1, 0.4), "bad"),
        (Link(0.0, 1, 900.0, "the data came damaged"), "bad"),
        (Link(0.0, 1, 0.0, "no data came: timed out"), "bad"),
        (Link(0.0, missing=(1,)), "unknown"),
    ],
)
def test_a_slow_or_broken_link_is_named(link, state):
    (finding,) = network_findings(link, SETTINGS)
    assert (finding.name, finding.state) == ("link", state)
    assert "node" in finding.said
