"""What a finished training leaves: its weights, or its best checkpoint's, and the figures."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from hpcjobs.run.best import Measurement, best_of, nearest_step, read_measurements
from hpcjobs.run.experiment import Experiment
from hpcjobs.run.fence import fenced, staging_dir
from hpcjobs.run.layout import RunDir
from hpcjobs.run.manifest import committed_steps, step_dir, verify
from hpcjobs.train.export import exported_parameters, write_result
from hpcjobs.train.process import Process
from hpcjobs.train.reshape import whole_weights


@dataclass(frozen=True, slots=True)
class Choice:
    """What is exported, and the best measurement of all."""

    best: Measurement | None
    step: int


def write_outcome(
    module: nn.Module,
    experiment: Experiment,
    run: RunDir,
    process: Process,
    attempt: int,
    figures: dict[str, Any],
) -> None:
    """Exports and writes the result; all ranks call it, rank 0 writes.

    Args:
        module: the trained module, divided by ZeRO-3 or not.
        experiment: the run's.
        run: its directory.
        process: this rank.
        attempt: its number; an older one than the newest can publish nothing.
        figures: what the result says; ``steps`` is where the module stands.

    Raises:
        InputError: the result cannot be written, or the best checkpoint has been damaged.
        RunHeldError: a newer attempt has taken over.
    """
    whole = exported_parameters(module, experiment.method, keep=process.is_leader)
    if not process.is_leader:
        return
    choice = _choose(experiment, run, figures["steps"])
    if choice.step != figures["steps"]:
        whole |= _of_checkpoint(run, choice.step, whole)
    best = choice.best
    figures |= {
        "best_step": best and best.step,
        "best_heldout_loss": best and best.loss,
        "exported_step": choice.step,
    }
    method, staging = experiment.method, staging_dir(run.checkpoints, attempt)
    with fenced(run.checkpoints, attempt):
        write_result(module, whole, experiment.model, method, run.result, staging, figures)


def _choose(experiment: Experiment, run: RunDir, last_step: int) -> Choice:
    best = next(iter(best_of(read_measurements(run.metrics), 1)), None)
    if best is None or experiment.train.export == "last":
        return Choice(best, last_step)
    return Choice(best, nearest_step(committed_steps(run.checkpoints), best.step) or last_step)


def _of_checkpoint(run: RunDir, step: int, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """The trained weights of a checkpoint, in the types that the model computes in."""
    directory = step_dir(run.checkpoints, step)
    manifest = verify(directory)
    weights = whole_weights(directory, manifest.zero_stage, manifest.world_size)
    return {name: weight.to(like[name].dtype) for name, weight in weights.items() if name in like}
