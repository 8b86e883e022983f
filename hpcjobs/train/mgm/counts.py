"""Counts a model's parameters on the meta device, without its memory, and answers in JSON.

``python -m hpcjobs.train.mgm.counts model.json`` reads the dimensions from the file that every
result carries; ``-`` reads standard input.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from hpcjobs.run.errors import ConfigError, HpcjobsError
from hpcjobs.run.experiment import Method
from hpcjobs.run.files import read_json
from hpcjobs.run.model_config import Model
from hpcjobs.run.schema import build
from hpcjobs.train.method import apply_method, trainable_parameters
from hpcjobs.train.mgm.model import build_model
from hpcjobs.train.mgm.names import part_of


def count_parts(dims: Model) -> dict[str, int]:
    """Returns the number of parameters of every part; the tied head counts once."""
    with torch.device("meta"):
        model = build_model(dims)
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        counts[part_of(name)] += parameter.numel()
    return dict(counts)


def count_trainable(dims: Model, method: Method) -> int:
    """Returns the number of parameters that the method trains."""
    with torch.device("meta"):
        module = apply_method(build_model(dims), method)
    return sum(p.numel() for p in trainable_parameters(module).values())


def count(dims: Model) -> dict[str, Any]:
    """Returns a model's parts, their sum, and what each method trains at its defaults."""
    parts = count_parts(dims)
    trainable = {
        kind: count_trainable(dims, build(Method, {"kind": kind}))
        for kind in ("lora", "full", "projector")
    }
    return {"parts": parts, "total": sum(parts.values()), "trainable": trainable}


def main(arguments: list[str]) -> int:
    """Prints the counts of the model that a file describes, and returns the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m hpcjobs.train.mgm.counts MODEL.JSON\n")
        return ConfigError.exit_code
    try:
        raw = json.load(sys.stdin) if arguments == ["-"] else read_json(Path(arguments[0]))
        answer = count(build(Model, raw))
    except HpcjobsError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    sys.stdout.write(json.dumps(answer, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
