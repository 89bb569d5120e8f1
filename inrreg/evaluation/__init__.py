"""Measures of the quality of a registration. See docs/metrics.md.

Landmark error, overlap, surface distance, Jacobian determinant, inverse consistency, image
agreement.
"""

from inrreg.evaluation.agreement import ImageAgreement, image_agreement
from inrreg.evaluation.consistency import inverse_consistency, inverse_consistency_on
from inrreg.evaluation.distance_statistics import DistanceStatistics, distance_statistics
from inrreg.evaluation.jacobian import (
    JacobianStatistics,
    jacobian_determinant,
    jacobian_determinant_of_field,
    jacobian_statistics,
)
from inrreg.evaluation.landmarks import (
    LandmarkError,
    LandmarkErrors,
    landmark_distances,
    landmark_error,
)
from inrreg.evaluation.overlap import Overlap, label_overlap
from inrreg.evaluation.surface import SurfaceDistance, SurfaceDistances, surface_distances

__all__ = [
    "DistanceStatistics",
    "ImageAgreement",
    "JacobianStatistics",
    "LandmarkError",
    "LandmarkErrors",
    "Overlap",
    "SurfaceDistance",
    "SurfaceDistances",
    "distance_statistics",
    "image_agreement",
    "inverse_consistency",
    "inverse_consistency_on",
    "jacobian_determinant",
    "jacobian_determinant_of_field",
    "jacobian_statistics",
    "label_overlap",
    "landmark_distances",
    "landmark_error",
    "surface_distances",
]
