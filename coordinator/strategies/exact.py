"""Scalar products of updates without rounding, so that who is long, close or an echo never depends on order, blocks or the machine.

A 32-bit word is split as v = 65536 h + l with -32768 <= h < 32768 and 0 <= l < 65536. Products of the halves are at most 2^32, so
sums over EXACT_WORDS of them stay under 2^53 and float64 matrix products (BLAS) are exact; the rest is Python integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from coordinator.averaging import WordSource
from coordinator.strategies.strategy import block_for, spans

EXACT_WORDS = 1 << 20
"""Longest sum that float64 holds exactly: 2^20 terms of at most 2^32 stay under 2^53."""

Integers = list[list[int]]
_HALF = 1 << 16


def gram(sources: Sequence[WordSource], parameters: int, block_words: int) -> Integers:
    """All scalar products of the sources' first ``parameters`` words as signed integers; exact, symmetric, [sources][sources]."""
    count = len(sources)
    total = [[0] * count for _ in range(count)]
    for start, stop in spans(parameters, min(EXACT_WORDS, block_for(sources, block_words))):
        high, low = _halves([source.words(start, stop) for source in sources])
        cross = high @ low.T
        for matrix, factor in ((high @ high.T, _HALF * _HALF), (cross + cross.T, _HALF), (low @ low.T, 1)):
            _add(total, matrix, factor)
    return total


def squares(sources: Sequence[WordSource], parameters: int, block_words: int) -> list[int]:
    """Each source's squared norm in units of its words; exact."""
    return [gram([source], parameters, block_words)[0][0] for source in sources]


def squared_norms(squares_: Sequence[int], weights: Sequence[int]) -> list[Fraction]:
    """Squared L2 norms of the deltas behind words with these squared norms and weights."""
    return [Fraction(square, weight * weight) for square, weight in zip(squares_, weights, strict=True)]


def squared_distances(products: Integers, weights: Sequence[int]) -> list[list[Fraction]]:
    """Squared distances between the deltas, |v_i / w_i - v_j / w_j|^2; exact, so that close ones do not cancel."""

    def distance(i: int, j: int) -> Fraction:
        w, u = weights[i], weights[j]
        return Fraction(products[i][i] * u * u - 2 * products[i][j] * w * u + products[j][j] * w * w, (w * u) ** 2)

    count = len(weights)
    return [[distance(i, j) for j in range(count)] for i in range(count)]


def low_median(values: Sequence[Fraction]) -> Fraction:
    """The middle value, of two middle ones the smaller: always one of the values."""
    return sorted(values)[(len(values) - 1) // 2]


def _halves(rows: Sequence[npt.NDArray[np.uint32]]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    words = np.stack(rows).view(np.int32)
    return (words >> 16).astype(np.float64), (words & (_HALF - 1)).astype(np.float64)


def _add(total: Integers, matrix: npt.NDArray[np.float64], factor: int) -> None:
    for row, values in zip(total, matrix, strict=True):
        for column, value in enumerate(values):
            row[column] += factor * int(value)
