"""Requests of drawn lengths, with a fixed seed, so that every comparison has the same requests.

The real samples of the PagedAttention paper are not at hand; these are log-normal draws with its published means.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Lengths:
    """Log-normal prompt and output lengths, in tokens, clipped to [low, high] with the mean kept."""

    prompt_mean: float
    prompt_sigma: float
    output_mean: float
    output_sigma: float
    low: int
    high: int


SHORT = Lengths(60, 0.7, 80, 0.8, 4, 256)  # questions with short answers
# The means of Kwon et al., SOSP 2023, section 6.1. Its spreads are not printed: these are near those of public ShareGPT and
# Alpaca samples (sigma of the logarithms 1.1-1.4 and 0.9-1.1; 0.55 and 0.9-1.2). No request passes OPT's 2,048 positions.
SHAREGPT = Lengths(161.31, 1.1, 337.99, 0.9, 4, 1024)
ALPACA = Lengths(19.31, 0.6, 58.45, 0.9, 4, 1024)


def draw(lengths: Lengths, num_requests: int, seed: int = 0) -> list[tuple[int, int]]:
    """(prompt tokens, output tokens) of each request."""
    rng = np.random.default_rng(seed)
    prompts = _log_normal(rng, lengths.prompt_mean, lengths.prompt_sigma, lengths, num_requests)
    outputs = _log_normal(rng, lengths.output_mean, lengths.output_sigma, lengths, num_requests)
    return list(zip(prompts.tolist(), outputs.tolist(), strict=True))


def _log_normal(rng: np.random.Generator, mean: float, sigma: float, lengths: Lengths, n: int) -> np.ndarray:
    """n lengths whose mean, after rounding and clipping, is `mean`: mu is found by bisection on one draw of normals."""
    normals = rng.standard_normal(n)
    low, high = -2.0, 12.0
    for _ in range(60):
        mu = (low + high) / 2
        values = np.clip(np.round(np.exp(mu + sigma * normals)), lengths.low, lengths.high)
        low, high = (mu, high) if values.mean() < mean else (low, mu)
    return values.astype(int)


def poisson_arrivals(num_requests: int, requests_per_second: float, seed: int = 2) -> list[float]:
    """Seconds at which requests arrive, a Poisson process from 0 on."""
    gaps = np.random.default_rng(seed).exponential(1 / requests_per_second, num_requests)
    return np.cumsum(gaps).tolist()
