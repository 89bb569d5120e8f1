"""The labels of a discrete search: candidate displacements on a lattice, in mm."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from math import prod
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from inrreg.core.errors import InputError
from inrreg.core.grid import Grid

Lengths = float | tuple[float, ...]


@dataclass(frozen=True)
class Labels:
    """Displacements from -``range_mm`` to ``range_mm`` every ``step_mm`` along each index axis.

    Each is one length, or one length an axis. ``Search`` reads the latter along world x, y, z.

    The range is met by whole steps, so it is rounded to the nearest of them.

    Raises:
        InputError: a step that is not above 0, or a range shorter than half a step.
    """

    range_mm: Lengths
    step_mm: Lengths

    def __post_init__(self) -> None:
        for reach, step in np.broadcast(self.range_mm, self.step_mm):
            if not (step > 0 and np.isfinite(reach) and reach >= 0.5 * step):
                raise InputError(
                    "labels need a step above 0 mm and a range of at least half of it, got a range"
                    f" of {reach:g} mm in steps of {step:g} mm"
                )

    def steps(self, ndim: int) -> tuple[float, ...]:
        """Millimetres between neighbouring labels along each axis."""
        return tuple(np.broadcast_to(np.asarray(self.step_mm, dtype=float), (ndim,)).tolist())

    def radii(self, ndim: int) -> tuple[int, ...]:
        """Steps to either side of 0 along each axis."""
        reach = np.broadcast_to(np.asarray(self.range_mm, dtype=float), (ndim,))
        return tuple(round(r / s) for r, s in zip(reach.tolist(), self.steps(ndim), strict=True))

    def shape(self, ndim: int) -> tuple[int, ...]:
        """Labels along each axis, 0 in the middle."""
        return tuple(2 * r + 1 for r in self.radii(ndim))

    def count(self, ndim: int) -> int:
        """Labels in all."""
        return prod(self.shape(ndim))

    def displacements(self, grid: Grid) -> Float[Tensor, "*labels d"]:
        """World displacement of every label, mm, along the index axes of ``grid``."""
        return lattice(self.radii(grid.ndim), self.steps(grid.ndim)) @ torch.tensor(
            grid.direction.T, dtype=torch.float32
        )

    def facing(self, grid: Grid) -> Self:
        """Lengths along world x, y, z, reordered to the nearest index axes of an image.

        In 2-D the largest of three lengths is used.

        Raises:
            InputError: two lengths for an image in 3-D, or more than three.
        """
        if np.ndim(self.range_mm) == 0 and np.ndim(self.step_mm) == 0:
            return self
        for lengths in (self.range_mm, self.step_mm):
            if np.size(lengths) not in (1, 3, grid.ndim):
                raise InputError(
                    f"labels along the axes of an image in {grid.ndim}-D need one length or"
                    f" {grid.ndim}, got {lengths}"
                )
        if grid.ndim == 2 and 3 in (np.size(self.range_mm), np.size(self.step_mm)):
            return type(self)(float(np.max(self.range_mm)), float(np.max(self.step_mm)))
        nearest = max(
            permutations(range(grid.ndim)),
            key=lambda axes: sum(
                abs(grid.direction[world, index]) for index, world in enumerate(axes)
            ),
        )
        turned = (
            tuple(
                np.broadcast_to(np.asarray(lengths, dtype=float), (grid.ndim,))[
                    list(nearest)
                ].tolist()
            )
            for lengths in (self.range_mm, self.step_mm)
        )
        return type(self)(*turned)

    def check_within(self, grid: Grid) -> None:
        """Whether the range stays within the image.

        Raises:
            InputError: the range along some axis is larger than the image there.
        """
        reach = np.array(self.radii(grid.ndim)) * self.steps(grid.ndim)
        if (reach > grid.extent).any():
            raise InputError(
                f"a search of {np.round(reach, 1).tolist()} mm along the index axes is larger than"
                f" the image ({np.round(grid.extent, 1).tolist()} mm); give a smaller range_mm"
            )


def along_axes(index: Int[Tensor, " n"], shape: Sequence[int]) -> list[Int[Tensor, " n"]]:
    """The number along each axis of labels counted through ``shape``; torch's ``unravel_index``
    loads a library for symbols first, which takes a third of a second.
    """
    numbers: list[Tensor] = []
    for n in reversed(shape):
        numbers.insert(0, index % n)
        index = index // n
    return numbers


def lattice(radii: Sequence[int], steps: Sequence[float]) -> Float[Tensor, "*lattice d"]:
    """Points -r ... r times the step along each axis, mm."""
    axes = [
        step * torch.arange(-r, r + 1, dtype=torch.float32)
        for r, step in zip(radii, steps, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
