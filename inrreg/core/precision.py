"""Guards the precision of single-precision arithmetic on a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_single_precision() -> Iterator[None]:
    """Inside the block matrix products and convolutions keep all 24 bits of single precision.

    TF32 keeps 11 of them. torch allows it for convolutions unless told otherwise, and callers may
    have allowed it for matrix products; points of 300 mm would then move by a tenth of a mm.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
