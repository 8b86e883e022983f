"""Seconds that a card waits for its samples."""

import numpy as np

from planner.layout import Layout, Quantity
from planner.workload import Workload

IMAGE_MS = 15.0
"""Of one processor, per image: measured with Pillow on one Xeon core, a JPEG of 640 x 480 and 133
KiB is decoded in 6 ms, resized to 336 x 336 (bicubic) and normalised in 9. To 768 x 768 it is 42:
give ``image_ms`` where pictures are large."""
SAMPLE_MS = 0.5
"""Of one processor, to read and tokenise a sample of some hundred words: set, not measured."""


def loading_seconds(workload: Workload, layout: Layout, images: float) -> Quantity:
    """Seconds in which the workers of one card prepare a micro batch.

    >>> from planner.read_workload import read_workload
    >>> from planner.layout import layout_of
    >>> work = read_workload({"model": "x", "method": "full", "seq_len": 8, "micro_batch": 4})
    >>> round(loading_seconds(work, layout_of(work), 1.0), 4)
    0.0155
    """
    each_ms = SAMPLE_MS + images * (IMAGE_MS if workload.image_ms is None else workload.image_ms)
    return layout.micro_batch * each_ms / 1000.0 / workload.workers


def wait_seconds(loading: Quantity, busy: Quantity) -> Quantity:
    """What is left of loading while the card is busy with the batch before: max(0, t - busy).

    >>> float(wait_seconds(0.5, 0.2)), float(wait_seconds(0.1, 0.2))
    (0.3, 0.0)
    """
    return np.maximum(0.0, loading - busy)
