"""Questions for the search's tests."""

from planner.plan import Ask, CardOffer
from planner.read_workload import read_workload
from planner.workload import Workload

L40S, A100, RTX_4090 = "L40S", "A100-SXM4-80GB", "RTX 4090"


def workload(**changes) -> Workload:
    raw = {
        "model": "gemma-2b", "method": {"kind": "lora", "r": 16}, "seq_len": 1024,
        "samples": 100_000, "sharding": "zero2",
    }  # fmt: skip
    return read_workload(raw | changes)


def ask(offers=None, global_batch=128, **changes) -> Ask:
    offers = offers or (CardOffer(RTX_4090, 8, 8), CardOffer(A100, 8, 16))
    fields = {"workload": workload(), "micro_batches": (1, 2, 4, 8, 16)} | changes
    return Ask(global_batch=global_batch, offers=offers, **fields)
