"""Compares the closed form with a measurement of the real engine on tensors without memory."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from hpcjobs.login import door
from hpcjobs.login.compose import compose_experiment
from hpcjobs.login.console import make_console
from hpcjobs.run.errors import ConfigError, InputError
from planner.layout import layout_of
from planner.memory.closed_form import allocated_of
from planner.models.presets import is_preset, preset
from planner.models.read import architecture_of
from planner.workload import Workload

PROGRAM = "hpcjobs.train.dry_run"

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Verification:
    """The measured and the computed peak of live tensors, in bytes."""

    measured: Mapping[str, Any]
    """What the program answered."""
    predicted: Mapping[str, float]
    """The closed form's phases, which are finer."""
    predicted_peak_bytes: float

    @property
    def phases(self) -> dict[str, tuple[float, float]]:
        """Measured and computed peak of the phases that both know."""
        computed: dict[str, float] = {}
        for name, value in self.predicted.items():
            phase = measured_phase(name)
            computed[phase] = max(value, computed.get(phase, 0.0))
        return {
            name: (float(figures["peak_bytes"]), computed[name])
            for name, figures in self.measured["phases"].items()
            if name in computed
        }

    @property
    def deviation(self) -> float:
        """Computed over measured, less one."""
        return self.predicted_peak_bytes / float(self.measured["peak_bytes"]) - 1.0


def measured_phase(name: str) -> str:
    """Which phase of the measurement a phase of the closed form falls into.

    >>> [measured_phase(name) for name in ("vision", "loss", "loss backward", "reduce 2", "step")]
    ['forward', 'forward', 'backward', 'backward', 'step']
    """
    if name == "step":
        return name
    return "backward" if "backward" in name or name.startswith("reduce") else "forward"


def verify(argv: Sequence[str]) -> int:
    """Measures one experiment on this machine and prints it beside the closed form.

    Raises:
        ConfigError: the experiment is wrong, or holds what no dry run traces.
        InputError: the interpreter is missing or cannot import what the training needs.
    """
    words = _parser().parse_intermixed_args(argv)
    from hpcjobs.login.workload_of import workload_of

    _, experiment = compose_experiment(words.overrides)
    python = experiment.cluster.python or sys.executable
    found = verification_of(workload_of(experiment), python)
    if words.json:
        sys.stdout.write(json.dumps(as_json(found), indent=2) + "\n")
    else:
        _show(found)
    return 0


def verification_of(workload: Workload, python: str) -> Verification:
    """Runs the container's program on a workload, and the closed form beside it.

    Args:
        workload: what to measure.
        python: an interpreter that has torch, DeepSpeed and transformers.
    """
    # The closed form first: it refuses a model that is no model in a moment.
    # With the CPU's operators, because those are what is measured.
    architecture = architecture_of(workload.model)
    allocated = allocated_of(architecture, workload, layout_of(workload), kernels="cpu")
    measured = measure(dry_run_request(workload), python)
    phases = {name: float(value) for name, value in allocated.phases.items()}
    return Verification(measured, phases, float(allocated.peak_bytes))


def measure(request: Mapping[str, Any], python: str) -> dict[str, Any]:
    """Runs the container's program and reads its answer.

    Raises:
        InputError: it cannot be run, or refuses; the message is its own.
    """
    command = [python, "-m", PROGRAM, "-"]
    try:
        done = subprocess.run(
            command, input=json.dumps(request), capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise InputError(
            f"cannot run {python}: {error.strerror}; set cluster.python to the training's Python"
        ) from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1].removeprefix("error: ")
        raise InputError(f"the dry run on {python} failed: {last}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def dry_run_request(workload: Workload) -> dict[str, Any]:
    """Puts a workload into the program's words; the longest sample decides.

    Raises:
        ConfigError: the workload holds what no dry run traces.
    """
    _refuse_untraced(workload)
    method = workload.method
    return {
        "config": _content(workload.model),
        "method": {
            "kind": method.kind,
            "r": method.r,
            "targets": method.targets,
            "dropout": method.dropout,
            "adapter_dtype": method.adapter_dtype,
            "train_embeddings": method.train_embeddings,
            "train_head": method.train_head,
            "train_projector": method.train_projector,
        },
        "seq_len": max(workload.seq_len.values),
        "towers": workload.towers,
        "images_per_sample": workload.images_per_sample,
        "micro_batch": workload.micro_batch,
        "grad_accum": workload.grad_accum,
        "grad_ckpt": {
            "language_model": workload.grad_ckpt.language_model,
            "towers": workload.grad_ckpt.towers,
        },
        "attention": workload.attention,
        "loss": workload.loss,
        "precision": workload.precision,
        "sharding": workload.sharding,
        "gpus": workload.gpus,
        "reduce_bucket": workload.reduce_bucket,
    }


def as_json(found: Verification) -> dict[str, Any]:
    """The measurement, the closed form and the deviation as JSON values."""
    return {
        "measured": dict(found.measured),
        "closed_form": {
            "phases": dict(found.predicted),
            "peak_bytes": found.predicted_peak_bytes,
        },
        "phases": {
            name: {"measured_bytes": measured, "computed_bytes": computed}
            for name, (measured, computed) in found.phases.items()
        },
        "deviation": found.deviation,
    }


def _refuse_untraced(workload: Workload) -> None:
    traced = {
        "method": (workload.method.kind, ("full", "lora", "projector")),
        "optimizer": (workload.optimizer, ("adamw",)),
        "offload": (workload.offload, ("none",)),
        "loss": (workload.loss, ("fp32", "no_upcast")),
        "precision": (workload.precision, ("bf16", "fp16", "fp32")),
        "sharding": (workload.sharding, ("none", "ddp", "zero0", "zero1", "zero2", "zero3")),
        "weights_dtype": (workload.weights_dtype, ("auto",)),
    }
    for name, (value, known) in traced.items():
        if value not in known:
            raise ConfigError(f"no dry run traces {name} {value}; it traces {', '.join(known)}")


def _content(model: str | Mapping[str, object]) -> Mapping[str, object]:
    """The content of the model's ``config.json``."""
    if not isinstance(model, str):
        return model
    if is_preset(model):
        return preset(model)
    from pathlib import Path

    path = Path(model)
    file = path / "config.json" if path.is_dir() else path
    content: dict[str, object] = json.loads(file.read_text("utf-8"))
    return content


def _parser() -> Any:  # noqa: ANN401 - argparse is imported by the door
    parser = door.parser(
        "verify",
        "Measure the memory of an experiment's training without a card, beside the closed form.",
        "example:\n  python -m planner verify +experiment=mgm_lora\n",
    )
    parser.prog = "python -m planner verify"
    parser.add_argument("overrides", nargs="+", metavar="OVERRIDE", help="Hydra overrides")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def _show(found: Verification) -> None:
    measured, console = found.measured, make_console()
    console.print(
        f"{measured['parameters']:,} parameters, {measured['trainable']:,} trained; traced in "
        f"{measured['seconds']:.0f} s with {measured['rss_bytes'] / _GIB:.2f} GiB of RAM"
    )
    table = Table("phase")
    for title in ("measured, GiB", "closed form, GiB", "deviation"):
        table.add_column(title, justify="right")
    peaks = (float(measured["peak_bytes"]), found.predicted_peak_bytes)
    for name, (seen, computed) in {**found.phases, "peak": peaks}.items():
        row = (
            f"{seen / _GIB:.2f}",
            f"{computed / _GIB:.2f}",
            f"{100 * (computed / seen - 1):+.1f} %",
        )
        table.add_row(name, *row)
    console.print(table)
    for note in measured["notes"]:
        console.print(f"note: {note}")
