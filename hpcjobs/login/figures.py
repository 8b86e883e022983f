"""The figures that are exact before a run: parameters in all, and those that are trained."""

from dataclasses import dataclass

import msgspec

from hpcjobs.login.workload_of import method_of, model_config
from hpcjobs.run.experiment import Experiment
from planner.models.read import architecture_of
from planner.models.trainable import trainable_of
from planner.workload import Method

# Bytes of a checkpoint per trained parameter: fp32 weights, master copy and Adam's two moments
_CHECKPOINT_BYTES = 16


@dataclass(frozen=True, slots=True)
class Figures:
    """Parameters in all, adapters included, and trained ones."""

    total: int
    trainable: int

    @property
    def checkpoint_bytes(self) -> int:
        """One checkpoint, over all ranks.

        >>> Figures(3_019_166_144, 32_870_656).checkpoint_bytes
        525930496
        """
        return self.trainable * _CHECKPOINT_BYTES


def figures_of(experiment: Experiment) -> Figures:
    """Counts a run's parameters from its configuration alone.

    Raises:
        ConfigError: ``method.targets`` matches no projection of the decoder.
    """
    architecture = architecture_of(model_config(experiment))
    words = method_of(experiment.method, experiment.train.precision)
    method = msgspec.convert(words, Method)
    trained = trainable_of(architecture, method)
    return Figures(architecture.parameters + trained.adapters, trained.total)
