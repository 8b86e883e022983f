"""Plans made by hand, with figures of the right size, for the tests of the pages."""

from dataclasses import replace

from planner.plan import PLAN_VERSION, Ask, CardOffer, Choice, Plan, Rejected, Unlock
from planner.prediction import GIB, Cost, Hours, Memory, Prediction, StepTime
from planner.workload import Lengths, Method, Workload

HOSTILE = "<script>alert('x')</script> \"&amp; \x1b[31m|`\n# bad \u202e"
SOURCE = "SkyPilot catalog v8: runpod"


def workload(**changes) -> Workload:
    fields = {
        "model": "mgm-2b",
        "method": Method(kind="lora", r=64, train_projector=True),
        "seq_len": Lengths(values=(700, 1000, 1400, 2048), weights=(0.3, 0.4, 0.2, 0.1)),
        "gpu": "RTX 4090",
        "gpus_per_node": 4,
        "samples": 665_000,
    }
    return Workload(**(fields | changes))


def memory(scale: float = 1.0, **components: float) -> Memory:
    sizes = {
        "weights": 5.62, "gradients": 0.21, "optimizer": 0.47, "activations": 2.31,
        "logits": 4.95, "buckets": 0.94, "slack": 0.72, "context": 0.5, "nccl": 1.0,
    } | components  # fmt: skip
    sizes = {name: size * scale * GIB for name, size in sizes.items()}
    p50 = sum(sizes.values())
    allocated = p50 - sizes["slack"] - sizes["context"] - sizes["nccl"]
    return Memory(
        components=sizes,
        phases={"forward": 0.81 * allocated, "loss": allocated, "backward": 0.93 * allocated, "step": 0.55 * allocated},
        allocated_bytes=allocated,
        peak_p50_bytes=p50,
        peak_p95_bytes=1.11 * p50,
        process_p50_bytes=p50,
        process_p95_bytes=1.11 * p50,
        needed_p95_bytes=0.97 * p50,
        unlimited_p95_bytes=p50,
        host_bytes=41.5 * GIB,
        checkpoint_bytes=1.37 * GIB,
    )  # fmt: skip


def choice(
    gpu="RTX 4090", gpus=8, per_node=4, sharding="zero2", micro=1, hours=38.1, price=0.69,
    offload="none", ckpt=True, loss="fp32", spot=False, scale=1.0, spread=1.18, batch=128, partition=None,
) -> Choice:  # fmt: skip
    nodes = max(1, gpus // per_node)
    gpu_hours = gpus * hours
    known_price = price is not None
    return Choice(
        gpu=gpu, gpus=gpus, nodes=nodes, gpus_per_node=min(gpus, per_node), sharding=sharding,
        offload=offload, micro_batch=micro, grad_accum=max(1, batch // (micro * gpus)), grad_ckpt=ckpt,
        loss=loss, preemptible=spot, partition=partition,
        prediction=Prediction(
            fits=True,
            memory=memory(scale),
            step=StepTime(
                compute_s=21.2, exposed_communication_s=1.4, optimizer_s=0.05, data_wait_s=0.9,
                p50_s=23.55, p95_s=27.1, tokens_per_step=128 * 1010.0, flops_per_step=3.1e15,
            ),
            hours=Hours(
                steps=5196.0, train_hours_p50=0.93 * hours, hours_p50=hours, hours_p95=spread * hours,
                wall_hours_p50=hours + 3.5, goodput=0.93, checkpoint_interval_s=2710.0,
            ),
            cost=Cost(
                gpu_hours_p50=gpu_hours, gpu_hours_p95=spread * gpu_hours,
                cost_p50=gpu_hours * price if known_price else None,
                cost_p95=spread * gpu_hours * price if known_price else None,
                currency="USD", price_per_gpu_hour=price,
                price_source=SOURCE if known_price else "", price_date="2026-11-22" if known_price else "",
                energy_kwh=gpu_hours * 0.42, co2_kg=gpu_hours * 0.42 * 0.38,
            ),
            binding="weights",
        ),
    )  # fmt: skip


def front(rows: tuple[Choice, ...]) -> tuple[int, ...]:
    both = [(float(c.prediction.hours.hours_p50), float(c.prediction.cost.cost_p50)) for c in rows]
    return tuple(
        at
        for at, (hours, cost) in enumerate(both)
        if not any(h <= hours and c <= cost and (h, c) != (hours, cost) for h, c in both)
    )


REJECTED = (
    Rejected("ZeRO-1", "needs 24.1 GiB at p95; the card has 23.6 GiB"),
    Rejected("micro batch 2", "needs 27.9 GiB at p95: the logits take 9.9 GiB"),
    Rejected("checkpointing off", "needs 33.0 GiB at p95: activations grow to 17.2 GiB"),
    Rejected("4 cards", "takes 72.9 h: later than the deadline of 48 h"),
)


def small() -> Plan:
    """MGM-2B with LoRA on 24 GB cards, one and two days."""
    best = choice()
    feasible = (
        best,
        choice(sharding="zero3", hours=41.0, scale=0.86),
        choice(gpus=16, hours=20.4),
        choice(gpu="RTX 4090", spot=True, price=0.34, hours=46.5, spread=1.4),
        choice(gpu="L40S", gpus=4, hours=29.8, price=1.09, micro=4, scale=1.9, sharding="zero1"),
        choice(gpu="A100-SXM4-80GB", gpus=4, hours=17.2, price=2.79, micro=8, scale=3.2, ckpt=False),
        choice(gpu="A100-SXM4-80GB", gpus=8, per_node=8, hours=9.0, price=2.79, micro=8, scale=3.1),
        choice(sharding="zero3", offload="optimizer_params", hours=61.0, scale=0.7),
    )  # fmt: skip
    best = feasible[3]
    return Plan(
        version=PLAN_VERSION,
        created="2026-11-22T18:30:00Z",
        config_hash="9f2c1c0de5a84b7f63d1f04bb1c7f1c2a3d4e5f60718293a4b5c6d7e8f901234",
        ask=Ask(
            workload=workload(),
            global_batch=128,
            offers=(
                CardOffer("RTX 4090", 4, 16, 0.69),
                CardOffer("RTX 4090", 4, 16, 0.34, preemptible=True, partition="low"),
                CardOffer("L40S", 4, 8),
                CardOffer("A100-SXM4-80GB", 8, 8),
            ),
            deadline_hours=72.0,
            budget=500.0,
        ),
        chosen=best,
        why="lowest cost of 412 configurations that fit and end within 72 h; ZeRO-2 is the lowest stage that fits",
        feasible=feasible,
        pareto=front(feasible),
        rejected=REJECTED,
        binding="weights",
        unlock=Unlock("chunked cross-entropy", 4.3 * GIB, "micro batch 2 on the same cards"),
        nearest=None,
        candidates=2016,
        assumptions=(
            "the longest micro batch decides about memory: 2,048 tokens",
            "steps of 1,010 tokens a sample on average",
            "one interruption in 30 days a node; preemptible cards: one in 12 h",
            "380 g CO2 a kWh",
        ),
        calibration="none: no finished run of this model is known; published runs give 5 % on average",
        sensitivity=(
            {"parameter": "efficiency of the card", "low": "-20 %", "high": "+20 %", "cost_low": 108.2, "cost_high": 158.1},
            {"parameter": "price per card and hour", "low": 0.24, "high": 0.45, "cost_low": 89.3, "cost_high": 167.4},
            {"parameter": "tokens a sample", "low": 800, "high": 1200, "cost_low": 101.5, "cost_high": 149.8},
            {"parameter": "interruptions a day", "low": 0.5, "high": 4, "cost_low": 121.9, "cost_high": 140.2},
            {"parameter": "picture decoding", "low": "5 ms", "high": "20 ms", "cost_low": 126.5, "cost_high": 128.9},
        ),
    )  # fmt: skip


def large() -> Plan:
    """Eighty cards for fifteen days."""
    plan = small()
    best = choice(
        "H100-SXM5", 80, 8, "zero3", 4, 360.0, 2.29, scale=4.1, batch=1280, partition="gpu-large"
    )
    others = tuple(
        choice(gpu, gpus, 8, stage, micro, hours, price, scale=scale, batch=1280, ckpt=ckpt)
        for gpu, gpus, stage, micro, hours, price, scale, ckpt in (
            ("H100-SXM5", 64, "zero3", 4, 446.0, 2.29, 4.2, True),
            ("H100-SXM5", 160, "zero3", 4, 188.0, 2.29, 3.9, True),
            ("H200-SXM", 80, "zero2", 8, 318.0, 3.39, 7.2, True),
            ("H200-SXM", 160, "zero2", 8, 166.0, 3.39, 7.0, False),
            ("A100-SXM4-80GB", 160, "zero3", 4, 402.0, 1.29, 4.1, True),
            ("B200", 40, "zero2", 16, 330.0, 4.89, 9.1, True),
        )
    )
    return replace(
        plan,
        ask=replace(
            plan.ask,
            workload=workload(
                model="qwen2.5-72b",
                gpu="H100-SXM5",
                gpus_per_node=8,
                samples=24_000_000,
                epochs=2.0,
                method=Method(kind="full"),
                towers="trainable",
            ),
            global_batch=1280,
            offers=(CardOffer("H100-SXM5", 8, 160), CardOffer("H200-SXM", 8, 160)),
            deadline_hours=480.0,
            budget=80_000.0,
        ),
        chosen=best,
        why="lowest cost within 20 d; 64 cards would cost less than 1 % less and take 3 d longer",
        feasible=(best, *others),
        pareto=front((best, *others)),
        sensitivity=(),
        calibration="3 runs of this model on H100-SXM5: memory within 2 %, step time within 4 %",
    )


def infeasible() -> Plan:
    plan = small()
    return replace(
        plan,
        chosen=None,
        why="no configuration fits: at ZeRO-3 with everything offloaded the smallest peak is 26.2 GiB at p95, and RTX 4090 has 23.6 GiB",
        feasible=(),
        pareto=(),
        unlock=Unlock("fused cross-entropy", 4.95 * GIB, "ZeRO-2 on 8 RTX 4090"),
        nearest="8 A100-SXM4-80GB, ZeRO-2, micro batch 1: 26.0 GiB, 9.0 h, USD 201",
        binding="logits",
        sensitivity=(),
    )  # fmt: skip


def many() -> Plan:
    """Many rows, close together on the chart."""
    plan = small()
    rows = tuple(
        choice("RTX 4090" if gpus < 16 else "A100-SXM4-80GB", gpus, 4 if gpus < 16 else 8, stage, micro,
               (300.0 + 15 * i) / gpus ** (0.9 + 0.01 * j), 0.69 if gpus < 16 else 1.29)
        for i, gpus in enumerate((4, 8, 12, 16, 24, 32, 48, 64))
        for j, (stage, micro) in enumerate((("zero1", 1), ("zero2", 1), ("zero2", 2), ("zero3", 2), ("zero3", 4)))
    )  # fmt: skip
    return replace(plan, chosen=rows[7], feasible=rows, pareto=front(rows))


def unpriced() -> Plan:
    """Nothing says how many samples there are: hours and cost are unknown."""
    plan = small()
    blank = tuple(
        replace(c, prediction=replace(c.prediction, hours=None, cost=None)) for c in plan.feasible
    )
    return replace(
        plan,
        ask=replace(plan.ask, workload=workload(samples=None), deadline_hours=None, budget=None),
        chosen=blank[0],
        feasible=blank,
        pareto=(),
        sensitivity=(),
    )


def hostile() -> Plan:
    """Names and texts that would break a page that does not escape."""
    plan = small()
    nasty = tuple(replace(c, gpu=HOSTILE, partition=HOSTILE) for c in plan.feasible)
    return replace(
        plan,
        ask=replace(
            plan.ask,
            workload=workload(model=HOSTILE, gpu=HOSTILE),
            offers=(CardOffer(HOSTILE, 4, 16, 0.69, partition=HOSTILE),),
        ),
        created=HOSTILE,
        config_hash=HOSTILE,
        chosen=nasty[3],
        feasible=nasty,
        why=HOSTILE,
        rejected=(Rejected(HOSTILE, HOSTILE),),
        unlock=Unlock(HOSTILE, 1e9, HOSTILE),
        binding=HOSTILE,
        assumptions=(HOSTILE,),
        calibration=HOSTILE,
        sensitivity=({"parameter": HOSTILE, "low": HOSTILE, "high": HOSTILE, "cost_low": 1.0, "cost_high": 300.0},),
    )  # fmt: skip


def long() -> Plan:
    """Names without a blank to break at, in letters of double width too."""
    plan = small()
    path = "/scratch/projects/" + "vision-language-" * 12 + "模型" * 20
    rows = tuple(replace(c, gpu="GPU-" + "X" * 60, partition="p" * 80) for c in plan.feasible)
    return replace(
        plan,
        ask=replace(plan.ask, workload=workload(model=path), budget=1e12),
        chosen=rows[3],
        feasible=rows,
        assumptions=("a" * 300,),
        rejected=(Rejected("c" * 90, "r" * 200),),
        sensitivity=({"parameter": "p" * 90, "low": 1e-9, "high": 1e12, "cost_low": 0.001, "cost_high": 5e9},),
    )  # fmt: skip


ALL = {
    "small": small,
    "large": large,
    "infeasible": infeasible,
    "many": many,
    "unpriced": unpriced,
    "hostile": hostile,
    "long": long,
}
