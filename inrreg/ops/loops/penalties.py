"""Penalties of a Jacobian whose entries lie each in one piece, and their derivatives: one walk
each.
"""

import numpy as np
from numpy.typing import NDArray

from inrreg.ops.loops import compiled

SITES = 1024
"""Sites that are looked at together."""


@compiled
def squared_slopes(
    start: int, stop: int, entries: NDArray, factors: NDArray, sums: NDArray
) -> None:
    """sums[e i] = the squared differences between neighbours, those along axis a times
    ``factors[a]``, in plane i of entry e ``[e, n0, n1, n2]`` and from it to plane i + 1.
    """
    _, planes, rows, n = entries.shape
    for row in range(start, stop):
        e, i = row // planes, row % planes
        total = 0.0
        for m in range(rows):
            here = entries[e, i, m]
            plane_on, row_on, next_one = (
                entries[e, min(i + 1, planes - 1), m],
                entries[e, i, min(m + 1, rows - 1)],
                here[1:],
            )
            along_0 = along_1 = along_2 = entries.dtype.type(0)
            for k in range(n):
                along_0 += (plane_on[k] - here[k]) ** 2
                along_1 += (row_on[k] - here[k]) ** 2
            for k in range(n - 1):
                along_2 += (next_one[k] - here[k]) ** 2
            total += factors[0] * along_0 + factors[1] * along_1 + factors[2] * along_2
        sums[row] = total


@compiled
def slopes_back(start: int, stop: int, entries: NDArray, factors: NDArray, out: NDArray) -> None:
    """Half the derivative of the sum of ``squared_slopes``, rows e i."""
    _, planes, rows, n = entries.shape
    kind = entries.dtype.type
    f, g, h = kind(factors[0]), kind(factors[1]), kind(factors[2])
    for row in range(start, stop):
        e, i = row // planes, row % planes
        for m in range(rows):
            here, target = entries[e, i, m], out[e, i, m]
            # at a border the row itself, from which it does not differ
            above, below = entries[e, max(i - 1, 0), m], entries[e, min(i + 1, planes - 1), m]
            left, right = entries[e, i, max(m - 1, 0)], entries[e, i, min(m + 1, rows - 1)]
            for k in range(n):
                target[k] = f * ((here[k] - above[k]) + (here[k] - below[k])) + g * (
                    (here[k] - left[k]) + (here[k] - right[k])
                )
            middle, before, after, inner = here[1:], here, here[2:], target[1:]
            for k in range(n - 2):
                inner[k] += h * ((middle[k] - before[k]) + (middle[k] - after[k]))
            if n > 1:
                target[0] += h * (here[0] - here[1])
                target[n - 1] += h * (here[n - 1] - here[n - 2])


@compiled
def lengths(
    first: int, stop: int, entries: NDArray, offset: NDArray, smoothing: float, out: NDArray
) -> None:
    """out[k] = sqrt(sum over e of (entries[e, first + k] - offset[e])^2 + smoothing^2), for the
    sites up to ``stop``.
    """
    for k in range(stop - first):
        out[k] = smoothing * smoothing
    for e in range(len(entries)):
        entry, less = entries[e, first:stop], offset[e]
        for k in range(len(entry)):
            out[k] += (entry[k] - less) ** 2
    for k in range(stop - first):
        out[k] = np.sqrt(out[k])


@compiled
def total_variation(
    start: int, stop: int, entries: NDArray, offset: NDArray, smoothing: NDArray, sums: NDArray
) -> None:
    """sums[part] = sum of ``lengths`` less ``smoothing`` over the part's sites."""
    length = np.empty(SITES, entries.dtype)
    for part in range(start, stop):
        first, end = part * SITES, min((part + 1) * SITES, entries.shape[1])
        lengths(first, end, entries, offset, smoothing[0], length)
        total = entries.dtype.type(0)
        for k in range(end - first):
            total += length[k] - smoothing[0]
        sums[part] = total


@compiled
def variation_back(
    start: int,
    stop: int,
    entries: NDArray,
    offset: NDArray,
    smoothing: NDArray,
    factor: NDArray,
    out: NDArray,
) -> None:
    """The derivative of ``factor`` times the sum of ``total_variation``."""
    length = np.empty(SITES, entries.dtype)
    for part in range(start, stop):
        first, end = part * SITES, min((part + 1) * SITES, entries.shape[1])
        lengths(first, end, entries, offset, smoothing[0], length)
        for k in range(end - first):
            length[k] = factor[0] / length[k]
        for e in range(len(entries)):
            entry, target, less = entries[e, first:end], out[e, first:end], offset[e]
            for k in range(len(entry)):
                target[k] = length[k] * (entry[k] - less)


@compiled
def determinants(start: int, stop: int, entries: NDArray, out: NDArray) -> None:
    """The determinant of the 2 x 2 or 3 x 3 matrices ``[4, n]`` or ``[9, n]``, sites ``start`` to
    ``stop``; transposed ones have the same.
    """
    target, part = out[start:stop], entries[:, start:stop]
    if len(entries) == 4:
        a, b, c, d = part[0], part[1], part[2], part[3]
        for k in range(len(target)):
            target[k] = a[k] * d[k] - b[k] * c[k]
    else:
        a, b, c, d, e, f, g, h, i = (
            part[0],
            part[1],
            part[2],
            part[3],
            part[4],
            part[5],
            part[6],
            part[7],
            part[8],
        )
        for k in range(len(target)):
            target[k] = (
                a[k] * (e[k] * i[k] - f[k] * h[k])
                + b[k] * (f[k] * g[k] - d[k] * i[k])
                + c[k] * (d[k] * h[k] - e[k] * g[k])
            )
