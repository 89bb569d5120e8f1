"""An encoder and the decoders that it drives, for all pairs of a set, after Tian et al. (NePhi,
ECCV 2024); and its file.
"""

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inrreg.core.errors import InputError
from inrreg.core.grid import Cube, Grid
from inrreg.core.image import Image
from inrreg.core.image_pair import ImagePair
from inrreg.core.tensor_files import read_tensors, write_tensors
from inrreg.fields import NePhi
from inrreg.fields.encoder import Encoder
from inrreg.fields.nephi import Codes
from inrreg.ops.pyramid import pyramid_level
from inrreg.ops.sampling import linear
from inrreg.transforms import Neural, Transform
from inrreg.transforms.composite import frozen_copy

KIND = "amortised nephi"
SCHEMA = 1


class AmortisedNePhi(nn.Module):
    """The codes of a pair are those that all pairs share, which ``decoders`` holds, plus what
    ``encoder`` reads from its images.

    ``options`` are those of ``NePhi``, ``scale_mm`` is that of ``NeuralModel``, ``channels`` those
    of the ``Encoder``.
    """

    def __init__(
        self,
        ndim: int = 3,
        options: Mapping[str, Any] | None = None,
        scale_mm: float = 10.0,
        channels: Sequence[int] = (16, 32, 64),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.ndim, self.options, self.scale_mm, self.channels = (
            ndim,
            dict(options or {}),
            scale_mm,
            tuple(channels),
        )
        self.decoders = NePhi(ndim, ndim, generator=generator, **self.options)
        whole, local = self.decoders.codes
        self.encoder = Encoder(
            ndim, len(whole), local.shape[0], local.shape[1], channels, generator
        )

    def forward(self, images: Float[Tensor, "2 *size"]) -> Codes:
        """The codes of a pair from its ``encoder_input``."""
        whole, local = self.encoder(images)
        return Codes(self.decoders.whole + whole, self.decoders.local + local)

    def transform(self, codes: Codes, cube: Cube) -> Neural:
        """The map that the decoders draw from ``codes``, for training: the gradient goes to codes
        and decoders.
        """
        return Neural(self.decoders.drawn(codes), cube, self.scale_mm)

    @torch.no_grad()
    def start(self, pair: ImagePair, initial: Transform | None = None) -> Neural:
        """A transform of its own that begins with the map predicted for ``pair`` seen through
        ``initial``; its parameters are the codes and a copy of the decoders.

        ``Registration(network.start(pair), ...).run(pair)`` goes on from there. The images must be
        prepared as those of the training.

        Raises:
            InputError: a pair of another number of dimensions.
        """
        if pair.fixed.grid.ndim != self.ndim:
            raise InputError(
                f"this network is for {self.ndim}-D images and got {pair.fixed.name}, which is"
                f" {pair.fixed.grid.ndim}-D; train one on pairs like it"
            )
        cube = Cube.around(pair.fixed.grid)
        codes = self(encoder_input(pair, initial, cube, self.encoder.size).to(self.decoders.whole))
        decoders = copy.deepcopy(self.decoders).requires_grad_(True)
        decoders.whole.copy_(codes.whole)
        decoders.local.copy_(codes.local)
        return Neural(decoders, cube, self.scale_mm, "nephi", dict(self.options)).to(
            pair.fixed.device
        )

    def architecture(self) -> dict[str, Any]:
        """What it is built with; JSON values."""
        return {
            "ndim": self.ndim,
            "options": self.options,
            "scale_mm": self.scale_mm,
            "channels": list(self.channels),
        }


@torch.no_grad()
def encoder_input(
    pair: ImagePair, initial: Transform | None, cube: Cube, size: int
) -> Float[Tensor, "2 *size"]:
    """The fixed image on ``size`` points along each world axis of ``cube``, and the moving one
    where ``initial`` carries them.

    Beyond an image the value is 0; of several channels it is their mean.
    """
    lattice = cube.lattice(size)
    points = lattice.points(device=pair.fixed.device)
    mapped = points if initial is None else frozen_copy(initial, points.device)(points)
    return torch.stack([_read(pair.fixed, points, lattice), _read(pair.moving, mapped, lattice)])


def _read(image: Image, points: Float[Tensor, "*size d"], lattice: Grid) -> Float[Tensor, "*size"]:
    """Blurred first against aliasing where the image is finer than the lattice."""
    return linear(pyramid_level(image, float(lattice.spacing[0])), points, outside=0.0).mean(0)


def codes_only(transform: Neural) -> Neural:
    """``transform`` with the decoders no longer among its parameters, though still in its files: a
    fit moves its codes only.
    """
    for name in ("there", "back"):
        for module in transform.network.get_submodule(name).modules():
            for each, parameter in list(module.named_parameters(recurse=False)):
                delattr(module, each)
                module.register_buffer(each, parameter.detach())
    return transform


def save_amortised(
    network: AmortisedNePhi, path: str | os.PathLike[str], notes: Mapping[str, str] | None = None
) -> None:
    """Write the weights and, in the same file's header, the architecture and ``notes`` (how it was
    trained); whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    write_tensors(
        path,
        KIND,
        network.state_dict(),
        {"schema": SCHEMA, "architecture": network.architecture(), "notes": dict(notes or {})},
    )


def load_amortised(
    path: str | os.PathLike[str], device: torch.device | str = "cpu"
) -> AmortisedNePhi:
    """The network that ``save_amortised`` wrote.

    Raises:
        InputError: no such file, or none of ours, or damaged.
    """
    weights, description = read_tensors(path, KIND)
    if description.get("schema") != SCHEMA:
        raise InputError(
            f"{path} has network schema {description.get('schema')}, this version reads {SCHEMA};"
            " load it with the version that wrote it"
        )
    try:
        network = AmortisedNePhi(**description["architecture"])
        network.load_state_dict(weights)
    except (KeyError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{path} holds weights that do not fit its description ({error}); save the network"
            " again"
        ) from error
    return network.to(device).requires_grad_(False)
