"""Renyi differential privacy of the Poisson-subsampled Gaussian mechanism, by numerical integration in numpy.

One step draws every patient independently with probability q, sums their gradients of norm at most C and adds Gaussian noise of
standard deviation sigma * C. Removing or adding one patient changes the output's density from mu_0 = N(0, sigma^2) to
mu = (1 - q) N(0, sigma^2) + q N(1, sigma^2) in units of C, and (Mironov, Talwar & Zhang 2019, arXiv 1908.10530, theorem 4)::

    RDP(alpha) = log A(alpha) / (alpha - 1),    A(alpha) = E over z ~ mu_0 of (mu(z) / mu_0(z)) ^ alpha

A is a smooth integral that decays like a Gaussian, for which the trapezoidal rule converges geometrically (Trefethen & Weideman
2014): a few hundred points give 12 digits for whole and broken orders alike, without the series of special functions that other
accountants need. Orders add up over steps; tests hold the values against Opacus and Google's dp-accounting.
"""

from __future__ import annotations

from functools import lru_cache
from math import pi, sqrt

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

ORDERS: tuple[float, ...] = (*(1 + tenth / 10 for tenth in range(1, 100)), *range(11, 64), 80, 96, 128, 192, 256, 512)
"""Orders alpha over which epsilon is minimised; small ones serve large epsilon, large ones small epsilon."""

REACH = 12.0
"""Standard deviations beyond the outermost peak that are integrated; what is cut off weighs less than 1e-31."""

NOISE_RANGE = (0.1, 1e4)
"""Noise multipliers that the integration is made for."""


@lru_cache(maxsize=1024)
def rdp_of_step(sampling_rate: float, noise_multiplier: float, orders: tuple[float, ...] = ORDERS) -> Floats:
    """RDP of one step.

    Args:
        sampling_rate: q, in (0, 1].
        noise_multiplier: sigma, in units of the clipping norm; within NOISE_RANGE.
        orders: K orders, each over 1.

    Returns:
        float64 [K]; read-only, because it is remembered.
    """
    alphas = np.array(orders, np.float64)
    if sampling_rate == 1:
        values = alphas / (2 * noise_multiplier**2)
    else:
        values = np.maximum(_log_moments(sampling_rate, noise_multiplier, alphas), 0) / (alphas - 1)
    values.flags.writeable = False
    return values


def _log_moments(rate: float, sigma: float, alphas: Floats) -> Floats:
    """Log A(alpha), float64 [K], with the sum kept in logarithms so that nothing overflows."""
    # The integrand is analytic in the strip |Im z| < pi sigma^2, where 1 - q + q exp(...) has its zeros.
    step = min(sigma / 8, pi * sigma**2 / 6)
    z = np.arange(-REACH * sigma, float(alphas.max()) + REACH * sigma, step)
    log_density = -(z**2) / (2 * sigma**2) + np.log(step / (sigma * sqrt(2 * pi)))
    log_ratio = np.logaddexp(np.log1p(-rate), np.log(rate) + (2 * z - 1) / (2 * sigma**2))
    return np.array([_log_sum(log_density + alpha * log_ratio) for alpha in alphas])


def _log_sum(values: Floats) -> float:
    peak = values.max()
    return float(peak + np.log(np.exp(values - peak).sum()))


def epsilon_from_rdp(rdp: Floats, delta: float, orders: tuple[float, ...] = ORDERS) -> float:
    """The smallest epsilon that an RDP curve proves at ``delta`` (Canonne, Kamath & Steinke 2020, proposition 12).

    Args:
        rdp: float64 [K], summed over all steps.
        delta: in (0, 1).
        orders: the K orders.
    """
    alphas = np.array(orders, np.float64)
    bounds = rdp + np.log1p(-1 / alphas) - (np.log(delta) + np.log(alphas)) / (alphas - 1)
    return max(0.0, float(np.min(bounds)))
