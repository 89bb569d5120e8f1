"""NIfTI, through nibabel: images in RAS mm by the sform, else the qform; written with both, and
with identical bytes for identical arrays.
"""

import io
import logging
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, ImageDataError, SpatialImage
from numpy.typing import NDArray

from inrreg.core.errors import InputError, OutputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.io.values import Volume, check_scalar, grid_of, spatial_shape, stored_values

log = logging.getLogger(__name__)

DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    zlib.error,
    ImageFileError,
    HeaderDataError,
    ImageDataError,
)
"""What nibabel raises on files that are not what they seem."""
DISAGREEMENT_MM = 1e-2
SCANNER = 1
"""NIFTI_XFORM_SCANNER_ANAT, the code of both forms in what we write."""
MM_PER_UNIT = {1: 1000.0, 3: 0.001}
"""NIfTI's codes for metres and microns; everything else is mm."""
LEVEL = 1
"""Level of compression: for whole numbers higher levels take longer and save one percent."""
GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"
"""RFC 1952: deflate, no flags, no time, fastest level, unknown operating system."""


def read(path: Path) -> Volume:
    """The volume of a NIfTI file.

    Raises:
        InputError: a damaged file, several volumes, colour, or a header that places the voxels
            nowhere.
    """
    return volume_from_nibabel(load(path), str(path))


def load(path: Path) -> nib.Nifti1Image:
    """The nibabel image of a file, its header read.

    Raises:
        InputError: a file that nibabel cannot open, or that holds no voxels.
    """
    try:
        image = nib.load(path, mmap=False)
    except DAMAGED as error:
        raise InputError(
            f"{path} is no readable NIfTI file ({error}); check that it was copied whole"
        ) from error
    if not isinstance(image, nib.Nifti1Image):
        raise InputError(
            f"{path} is a {type(image).__name__}, which has no voxel grid; convert it to a NIfTI"
            " volume"
        )
    return image


def volume_from_nibabel(image: SpatialImage, name: str) -> Volume:
    """A nibabel image as ours; axes of length one behind the third are dropped, ``scl_slope`` and
    ``scl_inter`` applied.

    Raises:
        InputError: several volumes, colour, an axis of one voxel, damaged data, a plane that is not
            parallel to world x-y.
        FrameError: a singular affine.
    """
    check_scalar(image.get_data_dtype(), name)
    shape = spatial_shape(image.shape, name)
    return Volume(voxels(image, name).reshape(shape), header_grid(image, shape, name), name)


def voxels(image: SpatialImage, name: str) -> np.ndarray:
    """The voxels in the type they are stored in, or as float32 where the header scales them.

    Raises:
        InputError: data that end too soon or do not unpack.
    """
    try:
        array = np.asarray(image.dataobj)
    except DAMAGED as error:
        raise InputError(
            f"the voxels of {name} cannot be read ({error}); check that it was copied whole"
        ) from error
    scaled = nib.is_proxy(image.dataobj) and array.dtype != image.get_data_dtype()
    return array.astype(np.float32 if scaled else array.dtype.newbyteorder("="), copy=False)


def header_grid(image: SpatialImage, shape: Sequence[int], name: str) -> Grid:
    """The grid of the first axes of a nibabel image, RAS mm; of a 2-D one, in its x-y plane.

    Raises:
        InputError: a 2-D image whose plane is not parallel to world x-y.
        FrameError: a singular affine.
    """
    affine = _affine(image, name)
    if len(shape) == 2:
        if np.abs(affine[2, :2]).max() > 1e-3 * np.abs(affine[:2, :2]).max():
            raise InputError(
                f"{name} is a 2-D image whose plane is not parallel to world x-y; give it an axial"
                " affine before registering in its plane"
            )
        affine = affine[np.ix_([0, 1, 3], [0, 1, 3])]
    return grid_of(shape, affine, name)


def _affine(image: SpatialImage, name: str) -> NDArray[np.float64]:
    """Voxel index to RAS mm, 4 x 4, by the header's own order of trust."""
    header = image.header
    if not isinstance(header, nib.Nifti1Header):
        return np.asarray(image.affine, dtype=np.float64)
    unit = MM_PER_UNIT.get(int(header["xyzt_units"]) % 8, 1.0)
    forms = [np.diag([unit, unit, unit, 1.0]) @ form for form in _forms(header, name)]
    if len(forms) == 2:
        _compare(forms[0], forms[1], image.shape, name)
    return forms[0]


def _forms(header: nib.Nifti1Header, name: str) -> list[NDArray[np.float64]]:
    """sform and qform, as far as their codes say that they are set; without either, what the voxel
    size alone says.
    """
    try:
        coded = header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]
    except (ValueError, HeaderDataError) as error:
        raise InputError(
            f"{name} has a broken qform ({error}); repair it, for instance with nibabel's set_qform"
        ) from error
    forms = [form for form in coded if form is not None]
    if not forms:
        log.warning(
            "%s has neither sform nor qform: only its voxel size is known, not its place and"
            " directions in the world; it is centred at the world origin",
            name,
        )
    return forms or [header.get_base_affine()]


def _compare(
    sform: NDArray[np.float64], qform: NDArray[np.float64], shape: Sequence[int], name: str
) -> None:
    """Warn where the two place a voxel differently; two affine maps differ most at a corner."""
    size = [*shape[:3], 1][:3]
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in size], [1], indexing="ij"), -1).reshape(
        -1, 4
    )
    difference = float(np.linalg.norm(corners @ (sform - qform).T, axis=1).max())
    if difference > DISAGREEMENT_MM:
        log.warning(
            "%s: sform and qform disagree by up to %.3g mm; the sform is used", name, difference
        )


def write(image: Image, path: Path) -> None:
    """Write an image in the type it came in.

    Raises:
        InputError: several channels, or values that its type cannot hold.
        OutputError: the file cannot be written.
    """
    save(stored_values(image), image.grid, path)


def to_nibabel(image: Image) -> nib.Nifti1Image:
    """An image of ours as nibabel's, in the type it came in.

    Raises:
        InputError: several channels, or values that its type cannot hold.
    """
    return placed(stored_values(image), image.grid, image.name)


def save(array: np.ndarray, grid: Grid, path: Path, intent: str = "none") -> None:
    """Write an array whose first axes lie on ``grid``: sform and qform alike, mm, no time stamp.

    Raises:
        OutputError: the file cannot be written.
    """
    image = placed(array, grid, str(path), intent)
    try:
        with open(path, "wb") as stream:
            _write(image, stream, compressed=path.name.lower().endswith(".gz"))
    except OSError as error:
        raise OutputError(
            f"{path} could not be written ({error.strerror}); check that its folder exists and has"
            " room"
        ) from error


def placed(array: np.ndarray, grid: Grid, name: str, intent: str = "none") -> nib.Nifti1Image:
    """The nibabel image of an array whose first axes lie on ``grid``; ``name`` is for a warning."""
    axes = [*range(grid.ndim), 3]
    affine = np.eye(4)
    affine[np.ix_(axes, axes)] = grid.affine
    image = nib.Nifti1Image(array, affine, dtype=array.dtype)
    image.header.set_intent(intent)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=SCANNER)
    image.set_qform(affine, code=SCANNER)
    sheared = (
        np.abs(image.get_qform() - image.get_sform()).max() * max(grid.shape) > DISAGREEMENT_MM
    )
    if sheared:
        image.set_qform(None)
        log.warning(
            "%s: the axes of its grid are not at right angles, which only the sform can say; ITK"
            " will not read it",
            name,
        )
    return image


class _GzipWriter(io.BufferedIOBase):
    """A gzip stream (RFC 1952) with neither file name nor time in its header, so that identical
    arrays make identical files.

    ``strategy`` is one of zlib's, which ``gzip.GzipFile`` does not offer. Positions count the bytes
    before compression.
    """

    def __init__(self, stream: io.BufferedIOBase, strategy: int) -> None:
        super().__init__()
        self._stream = stream
        self._deflate = zlib.compressobj(
            LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, strategy
        )
        self._checksum = zlib.crc32(b"")
        self._position = 0
        stream.write(GZIP_HEADER)

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go forward to ``offset`` from the beginning, by zeros; nibabel does so before the voxels.

        Raises:
            OSError: a position that is already written, or one relative to the end.
        """
        target = offset + (self._position if whence == io.SEEK_CUR else 0)
        if whence == io.SEEK_END or target < self._position:
            raise OSError("a gzip stream is only written forward")
        self.write(bytes(target - self._position))
        return self._position

    def write(self, data: Any, /) -> int:
        """Compress ``data`` and write what the compressor gives out."""
        view = memoryview(data).cast("B")
        self._stream.write(self._deflate.compress(view))
        self._checksum = zlib.crc32(view, self._checksum)
        self._position += len(view)
        return len(view)

    def finish(self) -> None:
        """Write what is left in the compressor, the checksum and the length; call it once, last."""
        self._stream.write(self._deflate.flush())
        self._stream.write(struct.pack("<LL", self._checksum, self._position & 0xFFFFFFFF))


def _write(image: nib.Nifti1Image, stream: io.BufferedIOBase, compressed: bool) -> None:
    if not compressed:
        image.to_stream(stream)
        return
    # the bytes of a vector field repeat only in runs of zeros: to search for other repetitions
    # takes three times as long and saves nothing
    of_vectors = image.header.get_intent()[0] == "vector"
    writer = _GzipWriter(stream, zlib.Z_RLE if of_vectors else zlib.Z_DEFAULT_STRATEGY)
    image.to_stream(writer)
    writer.finish()
