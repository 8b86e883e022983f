"""The two curves whose parameters a calibration learns."""

import numpy as np

from planner.calibration.robust_fit import Vector
from planner.layout import Quantity
from planner.time.constants import DEFAULT

TIME_WIDTHS = np.array([0.5, 0.2, 0.2, 0.3, 1.0])
"""How far runs are expected to lie from the planner: all of the time, its floor, its line, an
overhead in floors, and how sharply the floor gives way to the line (logarithms but for the
overhead). Chosen on the rows qwen-001 to qwen-081 of the Qwen README, after some thirteen
sets of widths and fourteen forms of the curve had been compared on them: the scores of those rows
are in sample."""
MEMORY_WIDTHS = np.array([0.1, 0.4, 0.5])
"""The same for static, dynamic and slack bytes; a guess, not fitted on any row."""
_SHARPEST = 40.0


def time_curve(
    theta: Vector,
    floor_s: Quantity,
    line_s: Quantity,
    fixed_s: Quantity,
    norm: float = DEFAULT.launch_norm,
) -> Quantity:
    """Seconds of a step: launches or arithmetic, whichever takes longer, and the rest.

    With a floor F, a line L, the rest R and the planner's norm p the step takes
    ``e^s (R + ((e^f F)^q + (a F + e^l L)^q)^(1/q))`` with ``q = p e^k``. All parameters zero is
    the planner's own word (planner.time.step).

    >>> round(float(time_curve(np.zeros(5), 3.0, 4.0, 2.0, norm=2.0)), 3)
    7.0
    >>> round(float(time_curve(np.array([0.0, 0.0, 0.0, 0.5, 4.0]), 1.0, 4.0, 0.0)), 3)
    4.5
    """
    scale, floor, line, overhead, sharp = theta
    power = np.clip(norm * np.exp(sharp), 1.0, _SHARPEST)
    low = np.maximum(np.exp(floor) * floor_s, 1e-12)
    high = np.maximum(overhead * floor_s + np.exp(line) * line_s, 1e-12)
    top = np.maximum(low, high)
    rounded = top * ((low / top) ** power + (high / top) ** power) ** (1.0 / power)
    result: Quantity = np.exp(scale) * (fixed_s + rounded)
    return result


def memory_curve(
    theta: Vector,
    static_bytes: Quantity,
    dynamic_bytes: Quantity,
    slack_bytes: Quantity = 0.0,
    context_bytes: Quantity = 0.0,
) -> Quantity:
    """Bytes at the peak: each part with its own multiplier, the context as it is.

    >>> float(memory_curve(np.array([0.0, np.log(2.0), 0.0]), 5.0, 3.0, 1.0))
    12.0
    """
    static, dynamic, slack = np.exp(theta)
    result: Quantity = (
        static * static_bytes + dynamic * dynamic_bytes + slack * slack_bytes + context_bytes
    )
    return result
