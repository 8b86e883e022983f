"""Length distributions of the data sets behind the rows, from what their sources publish."""

from typing import Any

import numpy as np

_BINS = 48


def fudan_news(longest: int) -> dict[str, Any]:
    """cls-fudan-news-zh as ms-swift benchmarks it, without the samples that are too long.

    ms-swift's Benchmark.md prints 3234.4 +- 2547.5 tokens, least 91, most 19548; its default
    truncation strategy of that time deletes longer samples instead of cutting them
    (swift/llm/utils/argument.py at 4312aeb). A gamma distribution behind a prompt of 85 tokens
    has these four figures (its expected least and most of 5,000 draws are 98 and 20,000; a
    log-normal one would give 220 and 29,000).
    """
    prompt, mean, std = 85.0, 3234.4, 2547.5
    shape, scale = ((mean - prompt) / std) ** 2, std**2 / (mean - prompt)
    tokens = np.arange(1, longest - int(prompt))
    shares = tokens ** (shape - 1) * np.exp(-tokens / scale)
    return _quantiles(tokens + prompt, shares, longest)


def alpaca(longest: int) -> dict[str, Any]:
    """Stanford Alpaca with its prompt: about 130 tokens, and one sample of the longest length.

    litgpt's scripts put the longest sample in the first batch, so that it makes the peak; the
    histogram of tutorials/images/prepare_dataset/alpaca.jpg has its body between 50 and 250.
    """
    tokens = np.arange(1, longest)
    sigma = np.sqrt(np.log1p((70 / 130) ** 2))
    median = np.log(130) - sigma**2 / 2
    shares = np.exp(-(((np.log(tokens) - median) / sigma) ** 2) / 2) / tokens
    return _quantiles(tokens, shares, longest)


def _quantiles(tokens: Any, shares: Any, longest: int) -> dict[str, Any]:  # noqa: ANN401
    """Equal shares of the distribution, and the longest length with next to none."""
    below = np.cumsum(shares) / np.sum(shares)
    marks = (np.arange(_BINS) + 0.5) / _BINS
    values = [int(tokens[np.searchsorted(below, mark)]) for mark in marks]
    return {"values": [*values, longest], "weights": [1.0] * _BINS + [0.01]}
