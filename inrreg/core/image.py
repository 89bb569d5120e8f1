"""Values together with the frame they live in: images, label images and points."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Shaped
from numpy.typing import ArrayLike
from torch import Tensor

from inrreg.core.errors import FrameError, InputError
from inrreg.core.grid import Grid
from inrreg.core.html import html_table

EXPORTERS: dict[str, Callable[..., Any]] = {}
"""``write_image`` and ``to_nibabel`` by their names. ``inrreg.io`` enters them when it is imported,
because this module may not import it.
"""


def _exporter(name: str) -> Callable[..., Any]:
    if name not in EXPORTERS:
        raise InputError(f"`import inrreg.io` first: it provides {name}")
    return EXPORTERS[name]


@dataclass(frozen=True, eq=False)
class Image:
    """Intensities on a grid: ``data`` is ``[channels, *grid.shape]``, floating point; ``name``
    appears in messages; ``dtype`` is the array type it came in.
    """

    data: Shaped[Tensor, "c *shape"]
    grid: Grid
    name: str = "image"
    dtype: np.dtype = field(default_factory=lambda: np.dtype(np.float32))

    def __post_init__(self) -> None:
        if tuple(self.data.shape[1:]) != self.grid.shape:
            raise FrameError(
                f"{self.name}: data of shape {tuple(self.data.shape)} does not lie on {self.grid};"
                f" expected [channels, {', '.join(map(str, self.grid.shape))}]"
            )

    @classmethod
    def from_array(cls, array: ArrayLike | Tensor, grid: Grid, name: str = "image") -> Self:
        """One-channel image from an array in index order (i, j, k) on ``grid``."""
        values = (
            array
            if isinstance(array, Tensor)
            else torch.from_numpy(
                np.require(cls._native(np.asarray(array)), requirements=["C", "W"])
            )
        )
        dtype = (
            np.dtype(str(values.dtype).removeprefix("torch."))
            if isinstance(array, Tensor)
            else np.asarray(array).dtype
        )
        return cls(cls._cast(values)[None], grid, name, dtype)

    @staticmethod
    def _native(array: np.ndarray) -> np.ndarray:
        """In an array type that torch knows: native byte order, no unsigned words, no half or long
        doubles.
        """
        if array.dtype.kind == "f":
            return array.astype(np.float64 if array.dtype.itemsize > 4 else np.float32, copy=False)
        return array.astype(
            (
                array.dtype
                if array.dtype == np.uint8
                else np.int64
                if array.dtype.itemsize > 4 or array.dtype.kind == "u"
                else np.int32
            ),
            copy=False,
        )

    @staticmethod
    def _cast(values: Tensor) -> Tensor:
        return values.to(torch.float32)

    @property
    def channels(self) -> int:
        return self.data.shape[0]

    @property
    def device(self) -> torch.device:
        return self.data.device

    def to(self, device: torch.device | str) -> Self:
        return replace(self, data=self.data.to(device))

    def with_data(self, data: Shaped[Tensor, "c *shape"], grid: Grid | None = None) -> Self:
        """The same image with other values, on another grid if given."""
        return replace(self, data=data, grid=grid or self.grid)

    def numpy(self) -> np.ndarray:
        """Values in index order (i, j, k), without the channel axis if there is one channel."""
        array = self.data.detach().cpu().numpy()
        return array[0] if self.channels == 1 else array

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the image in the array type it came in; the suffix chooses the format.

        Raises:
            InputError: an unknown suffix, several channels, or values that its type cannot hold.
            OutputError: the file cannot be written.
        """
        _exporter("write_image")(self, os.fspath(path))

    def to_nibabel(self) -> Any:
        """The image as a ``nibabel.Nifti1Image``, RAS mm, in the array type it came in.

        Raises:
            InputError: several channels, or values that its type cannot hold.
        """
        return _exporter("to_nibabel")(self)

    def _repr_html_(self) -> str:
        return html_table(
            f"{type(self).__name__} {self.name}",
            {
                "voxels": " x ".join(map(str, self.grid.shape)),
                "spacing, mm": " x ".join(f"{step:.3g}" for step in self.grid.spacing),
                "centre, RAS mm": self.grid.center.round(1).tolist(),
                "channels": self.channels,
                "values": f"{float(self.data.min()):.4g} to {float(self.data.max()):.4g}",
            },
        )

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.name!r}, {self.channels}"
            f" channel{'s' * (self.channels > 1)}, {self.grid})"
        )


class LabelImage(Image):
    """Integer labels on a grid, 0 is background: always warped by the nearest neighbour, so no new
    value appears.
    """

    @staticmethod
    def _cast(values: Tensor) -> Tensor:
        return (
            values.round().to(torch.int32) if values.is_floating_point() else values.to(torch.int32)
        )

    def mask(self) -> Image:
        """1 where any label is, as an image."""
        return Image((self.data > 0).to(torch.float32), self.grid, self.name)


@dataclass(frozen=True, eq=False)
class Points:
    """Positions in RAS mm, ``coords`` is ``[n, d]`` in double precision, with one label each."""

    coords: Float[Tensor, "n d"]
    labels: tuple[str, ...] = ()
    name: str = "points"

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "labels", tuple(self.labels) or tuple(str(i + 1) for i in range(len(self.coords)))
        )
        if len(self.labels) != len(self.coords):
            raise InputError(
                f"{self.name}: {len(self.labels)} labels for {len(self.coords)} points; give one"
                " label a point"
            )

    @classmethod
    def from_array(
        cls, coords: ArrayLike, labels: Sequence[str] = (), name: str = "points"
    ) -> Self:
        """Points from an ``[n, d]`` array of RAS mm."""
        return cls(torch.as_tensor(np.array(coords, dtype=np.float64)), tuple(labels), name)

    def __len__(self) -> int:
        return len(self.coords)
