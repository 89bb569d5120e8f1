"""Trees that fill the lobes: arteries, veins and airways, each a few mm from its look-alikes.

A tree grows from its root towards the middle of the points it has to reach, splits them in two
across their longest extent, and goes on with each half (after Tawhai et al., Ann. Biomed. Eng.
2000); radii follow Murray's law (Proc. Natl. Acad. Sci. 1926).
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from inrreg.phantoms.anatomy import Thorax
from inrreg.phantoms.random_field import RandomField
from inrreg.phantoms.raster import Tubes

Array = NDArray[np.float64]

_ARTERY = (29.0, 0.0, 26.0)
_VEIN = (29.0, 6.0, 8.0)
_BRONCHUS = (30.0, -12.0, 22.0)
"""Where the trees of the right lung start; those of the left lung are their mirror images."""
_PLEURA_MM = 3.0
"""No visible vessel comes closer to the surface."""
_SMALLEST_VESSEL_MM, _SMALLEST_AIRWAY_MM = 0.4, 0.9
"""Radii of the last branches."""
_SMALLEST_FORK_MM = 0.8
"""Radius from which a vessel can be seen among its surroundings."""
_PIECE_MM = 4.0
"""Longest straight piece of a branch: short enough to bend with the tissue."""


@dataclass(frozen=True, eq=False)
class Tree:
    """Nodes ``[n, 3]`` in mm, the index of each node's parent (the root is its own), and the radius
    of the branch that leads to it.
    """

    nodes: Float[np.ndarray, "n 3"]
    parents: Int[np.ndarray, " n"]
    radii: Float[np.ndarray, " n"]

    def bifurcations(self, smallest_radius: float) -> Float[np.ndarray, "m 3"]:
        """Nodes where a branch of at least ``smallest_radius`` splits in two."""
        children = np.bincount(self.parents[1:], minlength=len(self.nodes))
        return self.nodes[(children == 2) & (self.radii >= smallest_radius)]

    def branches(self, longest_mm: float) -> Tubes:
        """Every branch, cut into pieces of at most ``longest_mm``."""
        starts, ends = self.nodes[self.parents[1:]], self.nodes[1:]
        return Tubes(*(torch.from_numpy(a) for a in (starts, ends, self.radii[1:]))).cut(longest_mm)


def grow(root: Array, targets: Array, smallest_radius: float, rng: np.random.Generator) -> Tree:
    """The tree from ``root`` to each of the ``targets`` ``[n, 3]``; a branch that feeds n of them
    has the radius ``smallest_radius`` n^(1/3).
    """
    nodes = [root]
    parents = [0]
    fed = [len(targets)]
    waiting = [(0, targets)]
    while waiting:
        parent, points = waiting.pop()
        start = nodes[parent]
        end = (
            points[0]
            if len(points) == 1
            else start + rng.uniform(0.35, 0.55) * (points.mean(0) - start)
        )
        nodes.append(end)
        parents.append(parent)
        fed.append(len(points))
        if len(points) > 1:
            waiting.extend((len(nodes) - 1, half) for half in _halves(points, rng))
    return Tree(np.array(nodes), np.array(parents), smallest_radius * np.cbrt(fed))


def _halves(points: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """The points on either side of a plane across their longest extent; the halves are not quite
    equal, as in real lungs.
    """
    centred = points - points.mean(0)
    along = centred @ np.linalg.eigh(centred.T @ centred)[1][:, -1]
    order = np.argsort(along, kind="stable")
    cut = int(np.clip(round(len(points) * rng.uniform(0.3, 0.7)), 1, len(points) - 1))
    return points[order[:cut]], points[order[cut:]]


@dataclass(frozen=True, eq=False)
class PulmonaryTrees:
    """All vessels and airways of both lungs as tubes, mm, and the points where vessels of a visible
    size fork.
    """

    vessels: Tubes
    airways: Tubes
    forks: Float[Tensor, "n 3"]

    @classmethod
    def draw(cls, thorax: Thorax, rng: np.random.Generator, terminals: int = 9000) -> Self:
        """Arteries and veins with ``terminals`` ends between them, spread evenly over the lobes,
        and the first generations of airways.
        """
        winding = RandomField.draw(rng, length_mm=12, components=3)

        def wind(points: Tensor) -> Tensor:
            return points + 0.9 * winding(points)

        vessels = [
            grow(root, lobe, _SMALLEST_VESSEL_MM, rng)
            for kind in (_ARTERY, _VEIN)
            for root, lobe in _lobes(thorax, kind, terminals // 2, rng)
        ]
        airways = [
            grow(root, lobe, _SMALLEST_AIRWAY_MM, rng)
            for root, lobe in _lobes(thorax, _BRONCHUS, 120, rng)
        ]
        forks = torch.from_numpy(
            np.concatenate([tree.bifurcations(_SMALLEST_FORK_MM) for tree in vessels])
        )
        tubes, bronchi = (
            Tubes.joined([tree.branches(_PIECE_MM) for tree in trees])
            for trees in (vessels, airways)
        )
        bronchi = bronchi.chosen(thorax.abdomen(bronchi.ends) > bronchi.radii + 2)
        return cls(
            tubes.mapped(wind), Tubes.joined([_trachea(), bronchi]).mapped(wind), wind(forks)
        )


def _lobes(
    thorax: Thorax, root: tuple[float, float, float], terminals: int, rng: np.random.Generator
) -> list[tuple[Array, Array]]:
    """For each lobe the point at its hilum where a tree starts and the points the tree has to
    reach; ``root`` is that of the right side.
    """
    lower, upper = (
        np.array([-thorax.half_width[0], -thorax.half_width[1], thorax.diaphragm]),
        np.array([*thorax.half_width, thorax.top]),
    )
    points = torch.empty(0, 3, dtype=torch.float64)
    while len(points) < terminals:
        candidates = torch.from_numpy(rng.uniform(lower, upper, (4 * terminals, 3)))
        points = torch.cat([points, candidates[thorax.lungs(candidates) < -_PLEURA_MM]])
    points = points[:terminals]
    lobe, mirror = thorax.lobe(points), np.array([-1.0, 1.0, 1.0])
    return [
        (np.array(root) * (mirror if left else 1.0), points[lobe == i].numpy())
        for i, left in enumerate((False, False, False, True, True))
    ]


def _trachea() -> Tubes:
    """The windpipe from the neck to where it parts, and the main bronchi from there to the hila."""
    left = (-_BRONCHUS[0], *_BRONCHUS[1:])
    carina = (0.0, -14.0, 48.0)
    neck = (0.0, -6.0, 175.0)
    starts, ends = (
        torch.tensor([neck, carina, carina], dtype=torch.float64),
        torch.tensor([carina, _BRONCHUS, left], dtype=torch.float64),
    )
    return Tubes(starts, ends, torch.tensor([8.0, 6.0, 5.5], dtype=torch.float64)).cut(_PIECE_MM)
