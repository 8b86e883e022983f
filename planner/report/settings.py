"""The configuration of the chosen plan in short."""

from planner.plan import Choice, Plan
from planner.report import words
from planner.report.facts import Fact
from planner.report.figures import figure, gib, one_line, plural, seconds
from planner.workload import Workload

_CHECKPOINTING = {
    (True, True): "language model and towers",
    (True, False): "language model",
    (False, True): "towers",
    (False, False): "none",
}


def settings(plan: Plan) -> tuple[Fact, ...]:
    """What would be submitted, and how fast one step is."""
    workload = plan.ask.workload
    model = (
        Fact("model", words.model_name(workload)),
        Fact("method", words.method_name(workload.method)),
        Fact("vision towers", workload.towers),
        Fact("precision", workload.precision),
        Fact("optimizer", workload.optimizer),
        Fact("attention", workload.attention),
        Fact("tokens a sample", lengths(workload)),
        Fact("global batch", plural(plan.ask.global_batch, "sample")),
    )
    return model if plan.chosen is None else model + _choice(plan.chosen, workload)


def _choice(choice: Choice, workload: Workload) -> tuple[Fact, ...]:
    step, memory = choice.prediction.step, choice.prediction.memory
    place = (Fact("partition", one_line(choice.partition)),) if choice.partition else ()
    towers = choice.grad_ckpt and workload.grad_ckpt.towers and workload.towers != "frozen"
    return (
        Fact("cards", f"{words.cards(choice)} {words.card_name(choice)}"),
        *place,
        Fact("sharding", words.stage(choice)),
        Fact("offload to host memory", words.offload(choice)),
        Fact("micro batch x accumulation", f"{choice.micro_batch} x {choice.grad_accum}"),
        Fact("checkpointing of activations", _CHECKPOINTING[choice.grad_ckpt, towers]),
        Fact("loss", words.LOSSES.get(choice.loss, one_line(choice.loss))),
        Fact("one step", f"{seconds(step.p50_s)} (p50), {seconds(step.p95_s)} (p95)"),
        Fact("tokens a second, all cards", figure(step.tokens_per_s)),
        Fact("host memory a node", gib(memory.host_bytes)),
        Fact("disk for one checkpoint", gib(memory.checkpoint_bytes)),
    )


def lengths(workload: Workload) -> str:
    """The lengths, as a range with the mean where they vary."""
    values, weights = workload.seq_len.values, workload.seq_len.weights
    mean = sum(value * share for value, share in zip(values, weights, strict=True))
    if min(values) == max(values):
        return f"{values[0]:,}"
    return f"{min(values):,} to {max(values):,}, {mean:,.0f} on average"
