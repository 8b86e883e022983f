"""The peak of live tensors as a maximum over the phases of a step."""

from functools import reduce

import numpy as np

from planner.architecture import Architecture
from planner.layout import Layout, Quantity
from planner.memory.allocated import Allocated
from planner.memory.language import language_of
from planner.memory.lengths import longest_in_run
from planner.memory.parts import Parts, joined
from planner.memory.sharded import Sharded
from planner.memory.sharding import sharded_of
from planner.memory.specs import Kernels
from planner.memory.trained import trained_of
from planner.memory.vision import vision_of
from planner.workload import Workload


def allocated_of(
    architecture: Architecture, workload: Workload, layout: Layout, kernels: Kernels = "cuda"
) -> Allocated:
    """Peak of live tensors on the fullest card.

    The layout may hold arrays; every figure then has their shape.

    Raises:
        PlannerError: no linear layer has a name among the method's targets.
    """
    trained = trained_of(architecture, workload)
    sharded = sharded_of(architecture, workload, layout, trained, kernels)
    length = longest_in_run(workload, layout)
    vision = vision_of(architecture, workload, layout)
    language = language_of(architecture, workload, layout, length, trained, sharded, kernels)
    moving: dict[str, Parts] = {}
    if architecture.towers:
        moving["vision"] = joined({"vision": vision.forward}, sharded.forward)
        moving["vision backward"] = joined({"vision": vision.backward}, sharded.backward)
    for name, parts in language.phases.items():
        moving[name] = joined(parts, {"vision": vision.store})
    if "reduce" not in moving:
        moving["reduce"] = dict(sharded.last)
    moving["step"] = dict(sharded.step)
    return assemble(sharded, moving, language.largest, layout)


def assemble(
    sharded: Sharded, moving: dict[str, Parts], largest: Quantity, layout: Layout
) -> Allocated:
    """Takes the phase of the highest peak, and its components."""
    zero = 0.0 * (layout.micro_batch + layout.grad_accum + layout.gpus)
    static = sum(sharded.static.values(), start=zero)
    heights = {name: static + sum(parts.values(), start=zero) for name, parts in moving.items()}
    peak = reduce(np.maximum, heights.values())
    components = {name: value + zero for name, value in sharded.static.items()}
    remaining = np.ones_like(peak)
    for phase, parts in moving.items():
        here = np.where(heights[phase] >= peak, remaining, 0.0)
        remaining = remaining - here
        for name, value in parts.items():
            components[name] = components.get(name, zero) + here * value
    return Allocated(
        components=components,
        phases=heights,
        peak_bytes=peak,
        static_bytes=static,
        largest_tensor_bytes=largest + zero,
    )
