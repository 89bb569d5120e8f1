"""Sums over the window around every sample, a tile at a time: what local measures need, without leaving the cache.

A measure that sums windows of several products passes over its images some fifty times. Over whole images each pass waits for the
memory; over a tile with its margin, a part of which is computed twice, none does. Tiles that do not count are left out.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, prod

import torch
from jaxtyping import Float
from torch import Tensor

TILE = 1 << 17
"""Samples a thread works on at once on a CPU, margins included: four such arrays about fill the cache next to a core."""


@dataclass(frozen=True)
class Tile:
    """A part of a channel of ``[b, c, *lattice]`` arrays: ``inner`` is what is computed, ``outer`` that with the windows around it, as far as the lattice goes."""

    inner: tuple[slice, ...]
    outer: tuple[slice, ...]
    before: tuple[int, ...]
    """Samples of the windows that lie beyond the beginning of each lattice axis."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of ``inner``: members and samples along each lattice axis."""
        return tuple(s.stop - s.start for s in (self.inner[0], *self.inner[2:]))

    def alike(self) -> "Tile":
        """The same tile of arrays whose channels are all the same one."""
        one = slice(0, 1)
        return Tile((self.inner[0], one, *self.inner[2:]), (self.outer[0], one, *self.outer[2:]), self.before)


def tiles(weight: Float[Tensor, "b 1 *lattice"], channels: int, radii: Sequence[int]) -> Iterator[Tile]:
    """Tiles over all samples of non-zero ``weight``: on a CPU as large as the cache likes, elsewhere everything at once."""
    shape = (len(weight), channels, *weight.shape[2:])
    sizes = _sizes(shape, radii) if weight.device.type == "cpu" else (shape[0], 1, *shape[2:])
    for corner in product(*[range(0, n, size) for n, size in zip(shape, sizes, strict=True)]):
        inner = tuple(slice(first, min(first + size, n)) for first, size, n in zip(corner, sizes, shape, strict=True))
        outer = tuple(slice(max(0, s.start - r), min(n, s.stop + r)) for s, r, n in zip(inner, (0, 0, *radii), shape, strict=True))
        tile = Tile(inner, outer, tuple(max(0, r - s.start) for s, r in zip(inner[2:], radii, strict=True)))
        if bool(weight[tile.alike().inner].any()):
            yield tile


def _sizes(shape: Sequence[int], radii: Sequence[int]) -> tuple[int, ...]:
    """Members, channels and samples along each axis that make a tile: the last axis whole where it may be, for memory is read best in one piece, the others alike with their margins."""
    left, sizes = float(TILE * torch.get_num_threads()), list[int]()
    for axis, (n, radius) in reversed(list(enumerate(zip(shape[2:], radii, strict=True)))):
        room = left ** (1 / (axis + 1)) if sizes else left / max(1, 2 * radius + 1) ** axis
        sizes.insert(0, ceil(n / ceil(n / max(int(room) - 2 * radius, 2 * radius, 1))))
        left /= sizes[0] + 2 * radius
    return max(1, min(shape[0], int(left))), 1, *sizes


class WindowSums:
    """Sums of 2 r + 1 samples along each axis around the samples of tiles of one ``shape``, zero beyond the border of the lattice.

    A tile with its margin is one row of numbers, and windows along any axis are sums of the row and itself, shifted: pairs, pairs of pairs and so on. Which
    additions, between rows that take turns, is laid down once: on rows this short, finding out what to do takes as long as doing it.
    """

    def __init__(self, shape: Sequence[int], radii: Sequence[int], like: Tensor) -> None:
        padded = (shape[0], *(n + 2 * r for n, r in zip(shape[1:], radii, strict=True)))
        self._rows = [like.new_zeros(prod(padded)) for _ in range(4)]
        self._padded = self._rows[0].view(padded)
        self._additions: list[tuple[Tensor, Tensor, Tensor]] = []
        sums = self._rows[0]
        for axis, radius in reversed(list(enumerate(radii, start=1))):
            sums = self._along(sums, prod(padded[axis + 1 :]), 2 * radius + 1)
        self._sums = sums.as_strided(tuple(shape), self._padded.stride()).unsqueeze(1)

    def __call__(self, tile: Tile, values: Callable[[Tensor], object]) -> Float[Tensor, "b 1 *inner"]:
        """The sums of what ``values`` writes into the ``outer`` part of ``tile`` that it is given; they stand until the next call."""
        lattice = [slice(b, b + s.stop - s.start) for b, s in zip(tile.before, tile.outer[2:], strict=True)]
        part = self._padded[(slice(None), *lattice)]
        if part.shape != self._padded.shape:
            self._padded.zero_()
        values(part.unsqueeze(1))
        for first, second, total in self._additions:
            torch.add(first, second, out=total)
        return self._sums

    def _along(self, row: Tensor, stride: int, size: int) -> Tensor:
        """Lay down how ``size`` numbers that lie ``stride`` apart are added: runs of every power of two in ``size``, each from where the one before it ends."""
        run, width, total, covered = row, 1, row[:0], 0
        while True:
            if size & width:
                following = run[covered * stride :]
                total = self._added(total, following, (run, total)) if covered else following
                covered += width
            if covered == size:
                return total
            run = self._added(run, run[width * stride :], (run, total))
            width *= 2

    def _added(self, first: Tensor, second: Tensor, in_use: tuple[Tensor, ...]) -> Tensor:
        """Lay down an addition into a row that is not in use."""
        taken = {row.untyped_storage().data_ptr() for row in in_use}
        n = min(len(first), len(second))
        total = next(row for row in self._rows if row.untyped_storage().data_ptr() not in taken)[:n]
        self._additions.append((first[:n], second[:n], total))
        return total


class WindowSumsBySize:
    """The ``WindowSums`` of tiles of every size, made when first asked for."""

    def __init__(self, radii: Sequence[int], like: Tensor) -> None:
        self._radii, self._like, self._made = radii, like, dict[tuple[int, ...], WindowSums]()

    def __call__(self, tile: Tile, values: Callable[[Tensor], object]) -> Float[Tensor, "b 1 *inner"]:
        if tile.shape not in self._made:
            self._made[tile.shape] = WindowSums(tile.shape, self._radii, self._like)
        return self._made[tile.shape](tile, values)
