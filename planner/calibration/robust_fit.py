"""A few parameters from a few runs: least squares with a prior that outliers cannot pull far."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Vector: TypeAlias = NDArray[np.float64]

OUTLIER = 3.0
"""Residuals beyond so many standard deviations pull with constant force (Huber, 1964)."""
LIMIT = 4.0
"""Parameters stay within plus and minus this: they are logarithms of multipliers."""
_ROUNDS = 40
_STEP = 1e-6


def robust_fit(
    residuals: Callable[[Vector], Vector],
    prior: Vector,
    widths: Vector,
    starts: Sequence[Vector],
) -> Vector:
    """The parameters of the least robust cost, from the best of several starts.

    Levenberg-Marquardt on Huber's loss of the residuals plus the squared distance from the
    prior. Without residuals the answer is the prior.

    Args:
        residuals: of the parameters; each with the standard deviation one.
        prior: where the parameters are without evidence.
        widths: standard deviations of the prior.
        starts: where to look from.

    >>> one = lambda theta: np.array([(theta[0] - 1.0) / 0.1])
    >>> robust_fit(one, np.zeros(1), np.ones(1), [np.zeros(1)]).round(3)
    array([0.99])
    """
    ends = [_descend(residuals, prior, widths, start) for start in starts]
    costs = [_cost(residuals, prior, widths, end) for end in ends]
    return ends[int(np.argmin(costs))]


def _descend(
    residuals: Callable[[Vector], Vector], prior: Vector, widths: Vector, start: Vector
) -> Vector:
    theta, damping = np.clip(start, -LIMIT, LIMIT), 1e-3
    cost = _cost(residuals, prior, widths, theta)
    for _ in range(_ROUNDS):
        errors, slopes = _linearised(residuals, prior, widths, theta)
        normal = slopes.T @ slopes
        step = np.linalg.solve(normal + damping * np.eye(len(theta)), -slopes.T @ errors)
        new = np.clip(theta + step, -LIMIT, LIMIT)
        new_cost = _cost(residuals, prior, widths, new)
        if new_cost >= cost:
            damping *= 8.0
            if damping > 1e8:
                break
            continue
        gain, theta, cost = cost - new_cost, new, new_cost
        damping = max(damping / 4.0, 1e-9)
        if gain < 1e-9 * (1.0 + cost):
            break
    return theta


def _linearised(
    residuals: Callable[[Vector], Vector], prior: Vector, widths: Vector, theta: Vector
) -> tuple[Vector, Vector]:
    """Weighted residuals with the prior's below them, and their derivatives."""
    here = residuals(theta)
    slopes = np.stack(
        [(residuals(theta + _STEP * axis) - here) / _STEP for axis in np.eye(len(theta))], axis=-1
    )
    pull = np.sqrt(np.minimum(1.0, OUTLIER / np.maximum(np.abs(here), 1e-12)))
    errors = np.concatenate([pull * here, (theta - prior) / widths])
    return errors, np.concatenate([pull[:, None] * slopes, np.diag(1.0 / widths)])


def _cost(
    residuals: Callable[[Vector], Vector], prior: Vector, widths: Vector, theta: Vector
) -> float:
    size = np.abs(residuals(theta))
    huber = np.where(size <= OUTLIER, size**2, OUTLIER * (2.0 * size - OUTLIER))
    return float(np.sum(huber) + np.sum(((theta - prior) / widths) ** 2))
