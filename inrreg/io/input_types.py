"""What a caller may give as an image, a mask or landmarks, as types."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inrreg.core.image import Image, Points

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813  the usual name
    from nibabel.spatialimages import SpatialImage

ImageLike: TypeAlias = Union[str, Path, Image, "SpatialImage", "sitk.Image", NDArray[np.generic]]
"""A path, an inrreg ``Image`` or ``LabelImage``, a nibabel or SimpleITK image, or a numpy array in
index order (i, j, k); the grid of an array is given separately.
"""
MaskLike: TypeAlias = ImageLike
"""What ``ImageLike`` is; values above 0 mean "use this"."""
PointsLike: TypeAlias = str | Path | Points | ArrayLike
"""A path, ``Points``, or an array ``[n, d]`` of RAS mm."""
PairsLike: TypeAlias = str | Path | Sequence[PointsLike]
"""The path of a table of pairs, or ``(fixed, moving)``."""
