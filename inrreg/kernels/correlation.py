"""Local correlation and its derivative; ``inrreg.similarity.local`` says what is computed.

Images and weights are ``[i, j, k]``. Sums over windows are taken an axis at a time: along the rows of a plane, across its rows, and across a ring of planes that stays in the cache.
``needed[0]`` holds begin and end of what is wanted of each row, ``needed[1]`` and ``needed[2]`` of what has to be summed across and along rows for that, ``[3, i, j, 2]``: what a mask
leaves out costs nothing.
"""

import math
from typing import Any

import numpy as np

from inrreg.kernels import compiled

Array = Any


@compiled
def moments(first: int, stop: int, fixed: Array, weight: Array, radii: Array, needed: Array, inverse: Array, mean: Array, variance: Array) -> None:
    """The inverse of the weight in the window around every sample of planes ``first`` to ``stop``, and the weighted mean and variance of ``fixed`` in it."""
    product, row, sums, ring = buffers(fixed, radii)
    for ahead in range(max(first - radii[0], 0), stop + radii[0]):
        if ahead < len(fixed):
            for j in range(fixed.shape[1]):
                begin, end = reach(needed[2, ahead, j], radii[2], fixed.shape[2])
                product[0, j, begin:end] = weight[ahead, j, begin:end]
                multiply(weight[ahead, j, begin:end], fixed[ahead, j, begin:end], product[1, j, begin:end])
                multiply(product[1, j, begin:end], fixed[ahead, j, begin:end], product[2, j, begin:end])
            in_plane(product, ahead, radii, needed, row, ring)
        i = ahead - radii[0]
        if i >= first:
            for j in range(fixed.shape[1]):
                begin, end = needed[0, i, j]
                across_planes(ring, i, j, begin, end, radii[0], len(fixed), sums)
                moments_of(sums[:, begin:end], inverse[i, j, begin:end], mean[i, j, begin:end], variance[i, j, begin:end])


@compiled
def correlate(
    first: int, stop: int, warped: Array, fixed: Array, weight: Array, inverse: Array, mean: Array, variance: Array, floors: Array, radii: Array, needed: Array, factors: Array, totals: Array
) -> None:
    """``totals[i]`` is what planes ``first`` to ``stop`` add to the sum; ``factors`` become V p, V q and V (2 A q - F p)."""
    product, row, sums, ring = buffers(warped, radii)
    for ahead in range(max(first - radii[0], 0), stop + radii[0]):
        if ahead < len(warped):
            for j in range(warped.shape[1]):
                begin, end = reach(needed[2, ahead, j], radii[2], warped.shape[2])
                multiply(weight[ahead, j, begin:end], warped[ahead, j, begin:end], product[0, j, begin:end])
                multiply(product[0, j, begin:end], warped[ahead, j, begin:end], product[1, j, begin:end])
                multiply(product[0, j, begin:end], fixed[ahead, j, begin:end], product[2, j, begin:end])
            in_plane(product, ahead, radii, needed, row, ring)
        i = ahead - radii[0]
        if i >= first:
            totals[i] = 0.0
            for j in range(warped.shape[1]):
                begin, end = needed[0, i, j]
                across_planes(ring, i, j, begin, end, radii[0], len(warped), sums)
                known = inverse[i, j, begin:end], mean[i, j, begin:end], variance[i, j, begin:end]
                totals[i] += correlation_of(sums[:, begin:end], weight[i, j, begin:end], known, floors, factors[:, i, j, begin:end])


@compiled
def differentiate(first: int, stop: int, warped: Array, fixed: Array, weight: Array, radii: Array, needed: Array, factors: Array, gradient: Array) -> None:
    """The derivative of the sum by ``warped``, in planes ``first`` to ``stop``."""
    _, row, sums, ring = buffers(warped, radii)
    for ahead in range(max(first - radii[0], 0), stop + radii[0]):
        if ahead < len(warped):
            in_plane(factors[:, ahead], ahead, radii, needed, row, ring)
        i = ahead - radii[0]
        if i >= first:
            for j in range(warped.shape[1]):
                begin, end = needed[0, i, j]
                across_planes(ring, i, j, begin, end, radii[0], len(warped), sums)
                derivative_of(sums[:, begin:end], warped[i, j, begin:end], fixed[i, j, begin:end], weight[i, j, begin:end], gradient[i, j, begin:end])


@compiled
def weighted_sums(first: int, stop: int, values: Array, weight: Array, totals: Array) -> None:
    """``totals[i]`` are the sums of the weight, of weight times value and of weight times value squared over planes ``first`` to ``stop``."""
    for i in range(first, stop):
        weights, first_moment, second_moment = 0.0, 0.0, 0.0
        for j in range(values.shape[1]):
            w, v = weight[i, j], values[i, j]
            for k in range(w.size):
                product = np.float64(w[k]) * v[k]
                weights, first_moment, second_moment = weights + w[k], first_moment + product, second_moment + product * v[k]
        totals[i, 0], totals[i, 1], totals[i, 2] = weights, first_moment, second_moment


@compiled
def buffers(image: Array, radii: Array) -> tuple[Array, Array, Array, Array]:
    """Room for three products in a plane, for sums along its rows, for three rows of sums, and for three rings of planes."""
    plane = image.shape[1:]
    return np.zeros((3, *plane), image.dtype), np.zeros(plane, image.dtype), np.zeros((3, plane[1]), image.dtype), np.zeros((3, 2 * radii[0] + 1, *plane), image.dtype)


@compiled
def reach(part: Array, radius: int, n: int) -> tuple[int, int]:
    """A part of a row and the windows around it; nothing if it is empty."""
    return (max(part[0] - radius, 0), min(part[1] + radius, n)) if part[0] < part[1] else (0, 0)


@compiled
def in_plane(products: Array, i: int, radii: Array, needed: Array, row: Array, ring: Array) -> None:
    """Put the sums over the windows of a plane into its places of the rings."""
    n = products.shape[1]
    for which in range(3):
        total = ring[which, i % ring.shape[1]]
        for j in range(n):
            along_row(products[which, j], row[j], needed[2, i, j, 0], needed[2, i, j, 1], radii[2])
        for j in range(n):
            begin, end = needed[1, i, j]
            total[j, begin:end] = row[j, begin:end]
            for shift in range(1, radii[1] + 1):
                if j >= shift:
                    add(row[j - shift, begin:end], total[j, begin:end])
                if j + shift < n:
                    add(row[j + shift, begin:end], total[j, begin:end])


@compiled
def along_row(values: Array, total: Array, begin: int, end: int, radius: int) -> None:
    """Sums over 2 ``radius`` + 1 neighbours, 0 beyond the row."""
    total[begin:end] = values[begin:end]
    for shift in range(1, radius + 1):
        first, last = max(begin, shift), min(end, len(values) - shift)
        if first < end:
            add(values[first - shift : end - shift], total[first:end])
        if begin < last:
            add(values[begin + shift : last + shift], total[begin:last])


@compiled
def across_planes(ring: Array, i: int, j: int, begin: int, end: int, radius: int, n: int, sums: Array) -> None:
    """Sums of rows ``j`` over the planes around plane ``i`` of ``n``."""
    sums[:, begin:end] = 0
    for other in range(max(i - radius, 0), min(i + radius + 1, n)):
        for which in range(3):
            add(ring[which, other % ring.shape[1], j, begin:end], sums[which, begin:end])


@compiled
def add(row: Array, total: Array) -> None:
    for k in range(total.size):
        total[k] += row[k]


@compiled
def multiply(first: Array, second: Array, product: Array) -> None:
    for k in range(product.size):
        product[k] = first[k] * second[k]


@compiled
def moments_of(sums: Array, inverse: Array, mean: Array, variance: Array) -> None:
    one, least, zero = sums.dtype.type(1), sums.dtype.type(1e-3), sums.dtype.type(0)
    weights, values, squares = sums[0], sums[1], sums[2]
    for k in range(weights.size):
        v = one / max(weights[k], least)
        m = values[k] * v
        inverse[k], mean[k], variance[k] = v, m, max(squares[k] * v - m * m, zero)


@compiled
def correlation_of(sums: Array, weight: Array, known: tuple[Array, Array, Array], floors: Array, factors: Array) -> float:
    two, zero = sums.dtype.type(2), sums.dtype.type(0)
    values, squares, products = sums[0], sums[1], sums[2]
    inverse, mean, variance = known
    by_fixed, by_warped, constant = factors[0], factors[1], factors[2]
    total = 0.0
    for k in range(weight.size):
        a = values[k] * inverse[k]
        covariance = products[k] * inverse[k] - a * mean[k]
        spread = max(squares[k] * inverse[k] - a * a, zero) + floors[1]
        p = weight[k] / math.sqrt((variance[k] + floors[0]) * spread)
        total += p * covariance
        by_fixed[k] = p * inverse[k]
        by_warped[k] = by_fixed[k] * covariance / (two * spread)
        constant[k] = two * a * by_warped[k] - by_fixed[k] * mean[k]
    return total


@compiled
def derivative_of(sums: Array, warped: Array, fixed: Array, weight: Array, gradient: Array) -> None:
    two = sums.dtype.type(2)
    by_fixed, by_warped, constant = sums[0], sums[1], sums[2]
    for k in range(weight.size):
        gradient[k] = weight[k] * (by_fixed[k] * fixed[k] - two * by_warped[k] * warped[k] + constant[k])
