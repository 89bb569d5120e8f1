"""Local correlation and its derivative; ``inrreg.similarity.local`` says what is computed.

Images and weights are ``[i, j, k]``. Sums over windows are taken an axis at a time: along the rows
of a plane, across its rows, and across a ring of planes that stays in the cache. ``needed[0]``
holds begin and end of what is wanted of each row, ``needed[1]`` and ``needed[2]`` of what has to be
summed across and along rows for that, ``[3, i, j, 2]``: what a mask leaves out costs nothing.
"""

import math
from typing import Any

import numpy as np

from inrreg.ops.loops import Index, compiled

Array = Any


@compiled
def moments(
    first: int,
    stop: int,
    fixed: Array,
    weight: Array,
    radii: Array,
    needed: Array,
    inverse: Array,
    mean: Array,
    variance: Array,
) -> None:
    """The inverse of the weight in the window around every sample of planes ``first`` to ``stop``,
    and the weighted mean and variance of ``fixed`` in it.
    """
    products, rows, sums, ring = buffers(fixed, radii)
    for ahead in range(max(first - radii[0], 0), stop + radii[0]):
        if ahead < len(fixed):
            i = np.uint64(ahead)
            for j in range(np.uint64(fixed.shape[1])):
                for k in range(*reach(needed, i, j, radii[2], fixed.shape[2])):
                    w, f = weight[i, j, k], fixed[i, j, k]
                    products[0, j, k], products[1, j, k], products[2, j, k] = w, w * f, w * f * f
            in_plane(products, i, radii, needed, rows, ring)
        if ahead - radii[0] >= first:
            moments_of(
                ring, np.uint64(ahead - radii[0]), radii[0], needed, sums, inverse, mean, variance
            )


@compiled
def correlate(
    first: int,
    stop: int,
    warped: Array,
    fixed: Array,
    weight: Array,
    inverse: Array,
    mean: Array,
    variance: Array,
    floors: Array,
    radii: Array,
    needed: Array,
    factors: Array,
    totals: Array,
) -> None:
    """``totals[i]`` is what planes ``first`` to ``stop`` add to the sum; ``factors`` ``[i, 3, j,
    k]`` become V p, V q and V (2 A q - F p).
    """
    products, rows, sums, ring = buffers(warped, radii)
    for ahead in range(max(first - radii[0], 0), stop + radii[0]):
        if ahead < len(warped):
            i = np.uint64(ahead)
            for j in range(np.uint64(warped.shape[1])):
                for k in range(*reach(needed, i, j, radii[2], warped.shape[2])):
                    w, m, f = weight[i, j, k], warped[i, j, k], fixed[i, j, k]
                    products[0, j, k], products[1, j, k], products[2, j, k] = (
                        w * m,
                        w * m * m,
                        w * m * f,
                    )
            in_plane(products, i, radii, needed, rows, ring)
        if ahead - radii[0] >= first:
            i = np.uint64(ahead - radii[0])
            totals[i] = correlation_of(
                ring, i, radii[0], needed, sums, weight, inverse, mean, variance, floors, factors
            )


@compiled
def differentiate(
    first: int,
    stop: int,
    warped: Array,
    fixed: Array,
    weight: Array,
    radii: Array,
    needed: Array,
    factors: Array,
    gradient: Array,
) -> None:
    """The derivative of the sum by ``warped``, in planes ``first`` to ``stop``."""
    _, rows, sums, ring = buffers(warped, radii)
    for ahead in range(max(first - radii[0], 0), stop + radii[0]):
        if ahead < len(warped):
            in_plane(factors[ahead], np.uint64(ahead), radii, needed, rows, ring)
        if ahead - radii[0] >= first:
            derivative_of(
                ring,
                np.uint64(ahead - radii[0]),
                radii[0],
                needed,
                sums,
                warped,
                fixed,
                weight,
                gradient,
            )


@compiled
def buffers(image: Array, radii: Array) -> tuple[Array, Array, Array, Array]:
    """Room for three products in a plane, for sums along its rows, for three rows of sums, and for
    three rings of planes.
    """
    plane = image.shape[1:]
    return (
        np.zeros((3, *plane), image.dtype),
        np.zeros(plane, image.dtype),
        np.zeros((1, 3, plane[1]), image.dtype),
        np.zeros((3, 2 * radii[0] + 1, *plane), image.dtype),
    )


@compiled
def reach(needed: Array, i: int, j: int, radius: int, n: int) -> tuple[Index, Index]:
    """What has to be summed along a row, and the windows around it; nothing if that is empty."""
    begin, end = needed[2, i, j, 0], needed[2, i, j, 1]
    return (
        (np.uint64(max(begin - radius, 0)), np.uint64(min(end + radius, n)))
        if begin < end
        else (np.uint64(0), np.uint64(0))
    )


@compiled
def in_plane(
    products: Array, i: Index, radii: Array, needed: Array, rows: Array, ring: Array
) -> None:
    """Put the sums over the windows of a plane into its places of the rings."""
    n, slots, zero = products.shape[1], np.uint64(ring.shape[1]), np.uint64(0)
    apart, planes = rows.reshape(1, n, 1, rows.shape[1]), ring.reshape(-1, n, rows.shape[1])
    for which in range(np.uint64(3)):
        for j in range(np.uint64(n)):
            along_row(
                products,
                which,
                j,
                np.uint64(needed[2, i, j, 0]),
                np.uint64(needed[2, i, j, 1]),
                radii[2],
                rows,
            )
        for j in range(np.uint64(n)):
            begin, end = np.uint64(needed[1, i, j, 0]), np.uint64(needed[1, i, j, 1])
            sum_rows(
                apart,
                zero,
                int(j),
                radii[1],
                n,
                zero,
                begin,
                end,
                planes,
                which * slots + i % slots,
                j,
            )


@compiled
def along_row(
    products: Array, which: int, j: int, begin: Index, end: Index, radius: int, rows: Array
) -> None:
    """Sums over 2 ``radius`` + 1 neighbours, 0 beyond the row."""
    n = products.shape[2]
    for k in range(begin, end):
        rows[j, k] = products[which, j, k]
    for shift in range(1, min(radius, n - 1) + 1):
        far, last = np.uint64(shift), np.uint64(n - shift)
        for k in range(max(begin, far), end):
            rows[j, k] += products[which, j, k - far]
        for k in range(begin, min(end, last)):
            rows[j, k] += products[which, j, k + far]


@compiled
def across_planes(
    ring: Array, i: Index, j: Index, begin: Index, end: Index, radius: int, n: int, sums: Array
) -> None:
    """Sums of rows ``j`` over the planes around plane ``i`` of ``n``, into ``sums`` ``[1, 3,
    k]``.
    """
    for which in range(np.uint64(3)):
        sum_rows(ring, which, int(i), radius, n, j, begin, end, sums, np.uint64(0), which)


@compiled
def sum_rows(
    source: Array,
    p: Index,
    middle: int,
    radius: int,
    n: int,
    j: Index,
    begin: Index,
    end: Index,
    out: Array,
    q: Index,
    r: Index,
) -> None:
    """out[q, r] = sum of source[p, a, j] over a from ``middle`` - ``radius`` to ``middle`` +
    ``radius``, those of 0 to ``n`` that there are, counted round and round; three at a time.
    """
    size, first, stop = source.shape[1], max(middle - radius, 0), min(middle + radius + 1, n)
    a = np.uint64(first % size)
    for k in range(begin, end):
        out[q, r, k] = source[p, a, j, k]
    for at in range(first + 1, stop - 2, 3):
        a, b, c = np.uint64(at % size), np.uint64((at + 1) % size), np.uint64((at + 2) % size)
        for k in range(begin, end):
            out[q, r, k] += source[p, a, j, k] + source[p, b, j, k] + source[p, c, j, k]
    for at in range(stop - (stop - first - 1) % 3, stop):
        a = np.uint64(at % size)
        for k in range(begin, end):
            out[q, r, k] += source[p, a, j, k]


@compiled
def moments_of(
    ring: Array,
    i: Index,
    radius: int,
    needed: Array,
    sums: Array,
    inverse: Array,
    mean: Array,
    variance: Array,
) -> None:
    one, least, zero = sums.dtype.type(1), sums.dtype.type(1e-3), sums.dtype.type(0)
    for j in range(np.uint64(mean.shape[1])):
        begin, end = np.uint64(needed[0, i, j, 0]), np.uint64(needed[0, i, j, 1])
        across_planes(ring, i, j, begin, end, radius, len(mean), sums)
        for k in range(begin, end):
            v = one / max(sums[0, 0, k], least)
            m = sums[0, 1, k] * v
            inverse[i, j, k], mean[i, j, k], variance[i, j, k] = (
                v,
                m,
                max(sums[0, 2, k] * v - m * m, zero),
            )


@compiled
def correlation_of(
    ring: Array,
    i: Index,
    radius: int,
    needed: Array,
    sums: Array,
    weight: Array,
    inverse: Array,
    mean: Array,
    variance: Array,
    floors: Array,
    factors: Array,
) -> float:
    two, zero, total = sums.dtype.type(2), sums.dtype.type(0), 0.0
    of_fixed, of_warped = floors[0], floors[1]
    for j in range(np.uint64(mean.shape[1])):
        begin, end, of_row = np.uint64(needed[0, i, j, 0]), np.uint64(needed[0, i, j, 1]), zero
        across_planes(ring, i, j, begin, end, radius, len(mean), sums)
        for k in range(begin, end):
            v = inverse[i, j, k]
            a = sums[0, 0, k] * v
            covariance = sums[0, 2, k] * v - a * mean[i, j, k]
            spread = max(sums[0, 1, k] * v - a * a, zero) + of_warped
            p = weight[i, j, k] / math.sqrt((variance[i, j, k] + of_fixed) * spread)
            of_row += p * covariance
            by_warped = p * v * covariance / (two * spread)
            factors[i, 0, j, k], factors[i, 1, j, k], factors[i, 2, j, k] = (
                p * v,
                by_warped,
                two * a * by_warped - p * v * mean[i, j, k],
            )
        total += of_row
    return total


@compiled
def derivative_of(
    ring: Array,
    i: Index,
    radius: int,
    needed: Array,
    sums: Array,
    warped: Array,
    fixed: Array,
    weight: Array,
    gradient: Array,
) -> None:
    two = sums.dtype.type(2)
    for j in range(np.uint64(gradient.shape[1])):
        begin, end = np.uint64(needed[0, i, j, 0]), np.uint64(needed[0, i, j, 1])
        across_planes(ring, i, j, begin, end, radius, len(gradient), sums)
        for k in range(begin, end):
            gradient[i, j, k] = weight[i, j, k] * (
                sums[0, 0, k] * fixed[i, j, k]
                - two * sums[0, 1, k] * warped[i, j, k]
                + sums[0, 2, k]
            )
