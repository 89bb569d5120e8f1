"""The sign convention of ITK, Slicer and DICOM: their x points to the patient's left and their y to
the back (LPS), ours to the right and the front (RAS).
"""

import numpy as np
from jaxtyping import Float

SIGNS = np.array([-1.0, -1.0, 1.0])


def flip(vectors: Float[np.ndarray, "*sites d"]) -> Float[np.ndarray, "*sites d"]:
    """Points or vectors from RAS to LPS, and by the same change of signs back; two or three
    components on the last axis.
    """
    return vectors * SIGNS[: vectors.shape[-1]].astype(np.result_type(vectors.dtype, np.float32))
