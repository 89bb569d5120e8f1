"""The brain in which a lesion is put: its image, its structures, and where a lesion may lie."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.errors import FrameError, InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image, LabelImage
from inrreg.phantoms.random_field import RandomField
from inrreg.phantoms.raster import coverage

FLUID = 1
GREY = 2
WHITE = 3
"""Values of ``Brain.tissue``; 0 is outside the skull."""


@dataclass(frozen=True)
class Contrast:
    """How lesions look: a tumour's ``core`` and ``rim`` over the mean of white matter, and what
    full ``oedema`` multiplies tissue by; ``stream`` gives each contrast noise of its own.
    """

    core: float
    rim: float
    oedema: float
    stream: int


T1_ENHANCED = Contrast(core=0.4, rim=1.35, oedema=0.72, stream=1)
T2 = Contrast(core=1.9, rim=1.15, oedema=1.55, stream=2)


@dataclass(frozen=True, eq=False)
class Brain:
    """One head, or a slice of one in 2-D, on one grid: ``image`` is 0 outside the brain, ``labels``
    its structures, ``tissue`` 0 outside the skull, else ``FLUID``, ``GREY`` or ``WHITE``.

    ``resectable`` numbers the regions within one of which a lesion lies (1 and 2 for two
    hemispheres), 0 elsewhere.

    Raises:
        FrameError: the four do not lie on one grid.
        InputError: a kind of tissue, or every resectable region, is missing.
    """

    image: Image
    labels: LabelImage
    tissue: LabelImage
    resectable: LabelImage
    contrast: Contrast = T1_ENHANCED

    def __post_init__(self) -> None:
        grid = self.image.grid
        if not all(
            grid.same_as(other.grid) for other in (self.labels, self.tissue, self.resectable)
        ):
            raise FrameError(
                "a brain's image, labels, tissue and resectable regions lie on one grid, got"
                f" {grid}, {self.labels.grid}, {self.tissue.grid} and {self.resectable.grid}"
            )
        missing = [
            name
            for name, value in (("fluid", FLUID), ("grey", GREY), ("white", WHITE))
            if not bool((self.tissue.data == value).any())
        ]
        if missing or not bool((self.resectable.data > 0).any()):
            raise InputError(
                f"{self.image.name}: no voxel is {missing or 'resectable'}; every phantom needs"
                " fluid (1), grey (2) and white (3) tissue and a region for the lesion"
            )

    def section(self, axis: int, index: int) -> "Brain":
        """The slice ``index`` along a voxel axis of a 3-D brain, as a brain in 2-D; its world axes
        are the voxel axes that are left, in their order, in mm from the first voxel.

        Raises:
            InputError: as for a brain, where the slice lacks something.
        """
        volumes = (self.image, self.labels, self.tissue, self.resectable)
        image, *numbers = (volume.data.select(axis + 1, index)[0] for volume in volumes)
        grid = Grid.from_spacing(image.shape, np.delete(self.image.grid.spacing, axis))
        labels, tissue, resectable = (
            LabelImage.from_array(n, grid, volume.name)
            for n, volume in zip(numbers, volumes[1:], strict=True)
        )
        return Brain(
            Image.from_array(image, grid, self.image.name),
            labels,
            tissue,
            resectable,
            self.contrast,
        )

    def mean(self, kind: int) -> float:
        """Mean intensity of one tissue."""
        return float(self.image.data[self.tissue.data == kind].mean())

    def fluid(self) -> tuple[float, float]:
        """Mean and standard deviation of the fluid far from tissue: the deepest fifth of it, as in
        the middle of the ventricles.
        """
        from scipy.ndimage import distance_transform_edt

        depth = distance_transform_edt(
            (self.tissue.data[0] == FLUID).cpu().numpy(), sampling=self.image.grid.spacing
        )
        values = self.image.data[0].cpu()[
            torch.from_numpy(depth >= np.quantile(depth[depth > 0], 0.8))
        ]
        return float(values.mean()), float(values.std())


def t2_like(brain: Brain) -> Brain:
    """The same head with fluid bright, grey matter between and white matter dark: the T1
    intensities of the three, and what lies between, put in another order.
    """
    anchors = [brain.mean(kind) for kind in (FLUID, GREY, WHITE)]
    if sorted(anchors) != anchors:
        raise InputError(
            f"{brain.image.name} is not like T1: fluid, grey and white matter have the means"
            f" {[round(a, 3) for a in anchors]}, which do not rise"
        )
    values = np.interp(brain.image.data.numpy(), anchors, np.array([2.0, 1.35, 1.0]) * anchors[2])
    seen = torch.from_numpy(values).float() * (brain.tissue.data > 0)
    return replace(brain, image=brain.image.with_data(seen), contrast=T2)


def synthetic_brain(grid: Grid, seed: int = 0) -> Brain:
    """A head that fills ``grid``: two hemispheres of folded grey matter over white, each with a
    ventricle (labels 1 to 3 left, 4 to 6 right: white, grey, fluid), in fluid.
    """
    rng = np.random.default_rng(seed)
    points = (grid.points(torch.float64) - torch.tensor(grid.center)) @ torch.tensor(grid.direction)
    unit = points / torch.tensor(grid.extent / 2)
    size = float(grid.extent.min()) / 2
    folds = RandomField.draw(rng, 0.16, waves=64)(unit)[..., 0]
    skull = (unit.norm(dim=-1) - 0.84) * size
    pial = torch.maximum(
        (unit.norm(dim=-1) - 0.79) * size + 1.5 * folds, 1.5 - points[..., 0].abs()
    )
    white = pial + 0.12 * size + 1.5 * RandomField.draw(rng, 0.14, waves=64)(unit)[..., 0]
    away = torch.stack(
        [
            (unit[..., 0].abs() - 0.2) / 0.11,
            (unit[..., 1] - 0.02) / 0.34,
            (unit[..., 2] - 0.08) / 0.17,
        ],
        -1,
    )
    ventricle = (away.norm(dim=-1) - 1) * 0.11 * size
    shading = 1 + 0.04 * RandomField.draw(rng, 0.12, waves=64)(unit)[..., 0]
    image = _painted(
        [(skull, 0.1), (pial, 0.65 * shading), (white, 1.0 * shading), (ventricle, 0.1)]
    )
    tissue = _stacked([(skull, FLUID), (pial, GREY), (white, WHITE), (ventricle, FLUID)])
    side = torch.where(unit[..., 0] < 0, 1, 2)
    kinds = _stacked([(pial, 2), (white, 1), (ventricle, 3)])
    labels = torch.where(kinds > 0, kinds + 3 * (side - 1), 0)
    numbers = {
        "structures": labels,
        "tissue": tissue,
        "resectable": torch.where(tissue >= GREY, side, 0),
    }
    structures, kinds_of_tissue, regions = (
        LabelImage.from_array(values, grid, name) for name, values in numbers.items()
    )
    return Brain(
        Image.from_array(image.float(), grid, "synthetic brain"),
        structures,
        kinds_of_tissue,
        regions,
    )


def _painted(
    organs: list[tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"] | float]],
) -> Float[Tensor, "*shape"]:
    """Each organ (level, intensity) over those before it."""
    image = torch.zeros_like(organs[0][0])
    for level, value in organs:
        image = image + coverage(level) * (value - image)
    return image


def _stacked(organs: list[tuple[Float[Tensor, "*shape"], int]]) -> Tensor:
    """The number of the last organ that holds each voxel."""
    numbers = torch.zeros(organs[0][0].shape, dtype=torch.int64)
    for level, number in organs:
        numbers = torch.where(level < 0, number, numbers)
    return numbers
