"""A convolutional network that reads two images on the cube of a field and says which codes its
decoders should draw from (NePhi, Tian et al., ECCV 2024).

Every stride of 2 keeps each second sample and begins with the first, so the last samples are the
places of the local codes: what a code is told comes from the images around its own place. Unlike in
the paper the feature image of the local codes is the last one, two more convolutions let it look
further, and groups are normalised, not batches, as a step sees one pair.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inrreg.core.errors import InputError
from inrreg.fields.nephi import Codes

CONVOLUTIONS: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
GROUPS = 8
IMAGES = 2
"""The fixed image, and the moving one."""
SLOPE = 0.2
"""Of the leaky rectifier."""
FIRST_CODES = 0.3
"""About how large the codes of an untrained network are."""


class Encoder(nn.Module):
    """Two images of ``size`` samples along each axis, from one corner of the cube to the other, ->
    ``Codes`` for a field with ``lattice`` local codes an axis.

    One stride of 2 for each of ``channels``.

    Raises:
        InputError: neither 2-D nor 3-D, or channels that are not multiples of 8.
    """

    def __init__(
        self,
        ndim: int,
        whole_codes: int,
        local_codes: int,
        lattice: int,
        channels: Sequence[int] = (16, 32, 64),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if (
            ndim not in CONVOLUTIONS
            or not channels
            or any(c < GROUPS or c % GROUPS for c in channels)
        ):
            raise InputError(
                f"an encoder needs 2 or 3 dimensions and channels that are multiples of {GROUPS},"
                f" got {ndim} and {tuple(channels)}"
            )
        self.size = 2 ** len(channels) * (lattice - 1) + 1
        convolution, last = CONVOLUTIONS[ndim], channels[-1]
        self.strides = nn.Sequential(
            *[_layer(ndim, i, o, stride=2) for i, o in pairwise((IMAGES, *channels))]
        )
        self.around = nn.Sequential(_layer(ndim, last, last), _layer(ndim, last, last))
        self.to_local, to_whole = (
            convolution(last, local_codes, 1),
            nn.Linear(last * ((lattice + 1) // 2) ** ndim, whole_codes),
        )
        self.to_whole = nn.Sequential(_layer(ndim, last, last, stride=2), nn.Flatten(), to_whole)
        self._draw(generator)
        with torch.no_grad():
            for head in (self.to_local, to_whole):
                head.weight.mul_(FIRST_CODES)

    def forward(self, images: Float[Tensor, "2 *size"]) -> Codes:
        features = self.strides(images[None])
        features = features + self.around(features)
        return Codes(self.to_whole(features)[0], self.to_local(features)[0])

    def _draw(self, generator: torch.Generator | None) -> None:
        """Weights that keep the size of what passes (He et al., ICCV 2015)."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, SLOPE, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def _layer(ndim: int, inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        CONVOLUTIONS[ndim](inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(GROUPS, outputs),
        nn.LeakyReLU(SLOPE),
    )
