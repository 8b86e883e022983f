"""The planner's terms in words that a reader outside the field can follow."""

from planner.plan import Ask, Choice, Plan
from planner.report.figures import UNKNOWN, hours, money, one_line, plural
from planner.workload import Method, Workload

SHARDINGS = {
    "none": "one card",
    "ddp": "DDP",
    "zero0": "ZeRO-0",
    "zero1": "ZeRO-1",
    "zero2": "ZeRO-2",
    "zero3": "ZeRO-3",
    "fsdp": "FSDP",
    "fsdp_grad_op": "FSDP grad",
}
OFFLOADS = {"none": "none", "optimizer": "optimizer", "optimizer_params": "optimizer + weights"}
LOSSES = {
    "fp32": "in fp32",
    "no_upcast": "in two bytes",
    "chunked": "in chunks",
    "fused": "fused",
}
COMPONENTS = {
    "weights": ("weights", "the model itself"),
    "adapters": ("adapters", "the small trained additions of LoRA"),
    "gradients": ("gradients", "how every trained weight should change"),
    "optimizer": (
        "optimizer",
        "its memory of earlier steps, and precise copies of what is trained",
    ),
    "activations": ("activations", "results of the layers, kept until the way back"),
    "logits": ("logits and loss", "a score for every word of the vocabulary at every position"),
    "vision": ("vision", "working space of the picture encoder"),
    "gathered": ("gathered weights", "weights fetched from the other cards when they are needed"),
    "step": ("optimizer step", "working space while the weights are changed"),
    "buckets": ("buckets", "space in which the cards exchange gradients"),
    "slack": ("allocator slack", "reserved by torch's allocator and not in use"),
    "context": ("CUDA context", "the driver's own share"),
    "nccl": ("NCCL", "buffers for the communication between cards"),
}
METHODS = {
    "full": "full fine-tuning",
    "lora": "LoRA",
    "qlora": "QLoRA",
    "projector": "projector training",
}


def component_name(name: str) -> str:
    """What a component is called on a page."""
    return COMPONENTS[name][0] if name in COMPONENTS else one_line(name).replace("_", " ")


def component_meaning(name: str) -> str:
    """What a component is, for somebody who does not train models; empty where not known."""
    return COMPONENTS[name][1] if name in COMPONENTS else ""


def model_name(workload: Workload) -> str:
    """The preset's name or path, or the kind of a model that is given inline."""
    if isinstance(workload.model, str):
        return one_line(workload.model)
    return one_line(workload.model.get("model_type", "a model given inline"))


def method_name(method: Method) -> str:
    """The method with the figure that matters most.

    >>> method_name(Method(kind="lora", r=64))
    'LoRA (rank 64)'
    """
    name = METHODS[method.kind]
    if method.kind == "lora":
        return f"{name} (rank {method.r})"
    return f"{name} (rank {method.r}, {method.bits} bits)" if method.kind == "qlora" else name


def title(plan: Plan) -> str:
    """What is trained and how."""
    workload = plan.ask.workload
    return f"{model_name(workload)}, {method_name(workload.method)}"


def card_name(choice: Choice) -> str:
    """The card, and whether it can be taken away."""
    return ("preemptible " if choice.preemptible else "") + one_line(choice.gpu)


def nearest_parts(plan: Plan) -> tuple[str, tuple[str, ...]]:
    """What stands in the way where nothing is feasible, and the changes that would help.

    >>> from types import SimpleNamespace as Some
    >>> nearest_parts(Some(nearest="too late. Possible instead: 2 days: 4 L40S; 1 day: 8 L40S"))
    ('too late', ('2 days: 4 L40S', '1 day: 8 L40S'))
    """
    problem, _, instead = one_line(plan.nearest or UNKNOWN).partition(". Possible instead: ")
    return problem, tuple(instead.split("; ")) if instead else ()


def cards(choice: Choice) -> str:
    """Nodes times cards.

    >>> from types import SimpleNamespace as Some
    >>> cards(Some(gpus=80, nodes=10, gpus_per_node=8)), cards(Some(gpus=4, nodes=1))
    ('80 (10x8)', '4')
    """
    if choice.nodes == 1:
        return f"{choice.gpus:,}"
    return f"{choice.gpus:,} ({choice.nodes}x{choice.gpus_per_node})"


def cards_short(choice: Choice) -> str:
    """Nodes times cards in as few letters as can be."""
    return f"{choice.gpus}" if choice.nodes == 1 else f"{choice.nodes}x{choice.gpus_per_node}"


def offload_short(choice: Choice) -> str:
    """The same in few letters."""
    short = {"optimizer": "opt", "optimizer_params": "opt+w"}
    return short.get(choice.offload, one_line(choice.offload))


def offload(choice: Choice) -> str:
    """What lies in host memory."""
    return OFFLOADS.get(choice.offload, one_line(choice.offload))


def stage(choice: Choice) -> str:
    """How states are spread over the cards."""
    return SHARDINGS.get(choice.sharding, one_line(choice.sharding))


def stage_with_offload(choice: Choice) -> str:
    """The stage, and what lies in host memory, in a few letters."""
    short = {"none": "", "optimizer": "+opt", "optimizer_params": "+opt+w"}
    return stage(choice).removeprefix("ZeRO-") + short.get(
        choice.offload, f"+{one_line(choice.offload)}"
    )


def described(choice: Choice) -> str:
    """A choice in one line."""
    spread = f"{choice.nodes} x {choice.gpus_per_node}" if choice.nodes > 1 else f"{choice.gpus}"
    parts = [
        f"{spread} {card_name(choice)}",
        stage(choice),
        f"micro batch {choice.micro_batch} x {choice.grad_accum} accumulated",
        f"checkpointing {'on' if choice.grad_ckpt else 'off'}",
    ]
    if choice.offload != "none":
        parts.insert(2, f"{offload(choice)} in host memory")
    if choice.loss != "fp32":
        parts.append(f"loss {LOSSES.get(choice.loss, one_line(choice.loss))}")
    return ", ".join(parts)


def amount_of_data(workload: Workload) -> str:
    """How much is trained on."""
    if workload.steps is not None:
        return plural(workload.steps, "step")
    if workload.samples is None:
        return "an unknown number of samples"
    passes = "once" if workload.epochs == 1 else f"{workload.epochs:g} times"
    return f"{plural(workload.samples, 'sample')} {passes}"


def limits(ask: Ask, currency: str) -> str:
    """The objective with its limits, as words."""
    parts = []
    if ask.deadline_hours is not None:
        parts.append(f"within {hours(ask.deadline_hours)}")
    if ask.budget is not None:
        parts.append(f"within {money(ask.budget, currency)}")
    return f"the {ask.objective} way" + (f" {' and '.join(parts)}" if parts else "")


def offers(ask: Ask) -> str:
    """The cards that may be used."""
    return "; ".join(
        f"up to {offer.max_gpus:,} {one_line(offer.gpu)}"
        + (f" in partition {one_line(offer.partition)}" if offer.partition else "")
        + (" (preemptible)" if offer.preemptible else "")
        for offer in ask.offers
    )
