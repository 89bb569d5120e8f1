"""What a measure compares: a feature maps an image to the channels that are warped and compared,
once a pyramid level.

A feature is any hashable callable Image -> Image. Measures that name the same feature share its
samples.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from inrreg.core.errors import InputError
from inrreg.core.image import Image

Feature = Callable[[Image], Image]


def intensities(image: Image) -> Image:
    """The image itself."""
    return image


@dataclass(frozen=True)
class Window:
    """Intensities between ``low`` and ``high`` carried linearly to 0 ...

    1, those beyond clipped: for CT, where the unit (HU) means something.

    Raises:
        InputError: ``high`` is not above ``low``.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise InputError(
                f"an intensity window needs its low end below its high one, got {self.low:g} to"
                f" {self.high:g}"
            )

    def __call__(self, image: Image) -> Image:
        return image.with_data(((image.data - self.low) / (self.high - self.low)).clamp(0, 1))


@dataclass(frozen=True)
class RobustWindow:
    """Intensities between two percentiles of the image carried to 0 ...

    1: for everything without a unit.

    Raises:
        InputError: when called, on an image of one value everywhere.
    """

    lower_percent: float = 0.5
    upper_percent: float = 99.5

    def __call__(self, image: Image) -> Image:
        values = image.data.reshape(-1)
        sample = values[:: max(1, len(values) // 1_000_000)].cpu().numpy()
        low, high = np.percentile(sample, [self.lower_percent, self.upper_percent])
        if high <= low:
            low, high = float(values.min()), float(values.max())
        if high <= low:
            raise InputError(
                f"{image.name} is {low:g} everywhere, so it has no window of intensities; check"
                " that it is the right image"
            )
        return Window(float(low), float(high))(image)


@dataclass(frozen=True)
class GradientMagnitude:
    """Length of the image gradient per mm by central differences: edges, whichever side is
    brighter.
    """

    def __call__(self, image: Image) -> Image:
        along = torch.gradient(
            image.data,
            spacing=[float(s) for s in image.grid.spacing],
            dim=list(range(1, image.data.ndim)),
        )
        return image.with_data(torch.stack(along).square().sum(0).sqrt())
