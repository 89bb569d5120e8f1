"""The numbers of a result as attributes. ``Metrics.to_json`` gives the content of metrics.json
(docs/metrics.md), and ``Metrics.from_json`` reads it.

An attribute has the name of its key. A number is None where it is not defined.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from inrreg.evaluation.distance_statistics import DistanceStatistics

Json = Mapping[str, Any]


@dataclass(frozen=True)
class OutcomeMetrics:
    """How the registration ended: a short name, and a sentence."""

    name: str
    message: str


@dataclass(frozen=True)
class TimeMetrics:
    """Seconds of wall time of each part of the run."""

    loading: float
    stages: float
    measuring: float
    total: float


@dataclass(frozen=True)
class MemoryMetrics:
    """The most memory in MB that the process and the CUDA device held; None where not measured."""

    process: float | None = None
    device: float | None = None


@dataclass(frozen=True)
class Agreement:
    """How well two images agree; see ``inrreg.evaluation.image_agreement``."""

    n_voxels: int
    ncc: float | None
    lncc: float | None
    mse_intensity2: float | None


@dataclass(frozen=True)
class SimilarityMetrics:
    """The agreement of fixed and moving image before and after the registration."""

    before: Agreement
    after: Agreement


@dataclass(frozen=True)
class JacobianMetrics:
    """Statistics of the Jacobian determinant over ``region``."""

    region: str
    n_voxels: int
    n_folded: int
    folded_percent: float
    mean: float | None
    min: float | None
    p1: float | None
    p5: float | None
    median: float | None
    p95: float | None
    p99: float | None
    max: float | None
    sd_log: float | None


@dataclass(frozen=True)
class InverseMetrics:
    """|T(T^-1(y)) - y| in mm over ``n`` points."""

    n: int
    residual_mean_mm: float | None
    residual_max_mm: float | None
    not_inverted_percent: float


@dataclass(frozen=True, kw_only=True)
class LandmarkMetrics(DistanceStatistics):
    """Landmark errors in mm; ``snapped_*`` after rounding to voxel centres of the moving grid."""

    initial_mean_mm: float
    snapped_mean_mm: float | None = None
    snapped_sd_mm: float | None = None
    snapped_median_mm: float | None = None
    snapped_p25_mm: float | None = None
    snapped_p75_mm: float | None = None
    snapped_p95_mm: float | None = None
    snapped_max_mm: float | None = None
    snapped_trimmed98_mm: float | None = None
    snapped_above_2mm_percent: float | None = None
    snapped_above_5mm_percent: float | None = None

    groups: Mapping[str, "LandmarkMetrics"] = field(default_factory=dict)
    """The errors of each group of landmarks whose labels share their letters."""

    @classmethod
    def from_json(cls, entry: Json) -> Self:
        groups = {name: cls(**errors) for name, errors in entry["groups"].items()}
        return cls(**entry["all"], groups=groups)

    def to_json(self) -> dict[str, Any]:
        return {
            "all": self._own(),
            "groups": {name: errors._own() for name, errors in self.groups.items()},
        }

    def _own(self) -> dict[str, Any]:
        """The errors without the groups, and without ``snapped_*`` where nothing was snapped."""
        own = {"initial_mean_mm": self.initial_mean_mm, **asdict(self)}
        del own["groups"]
        if self.snapped_mean_mm is None:
            return {name: value for name, value in own.items() if not name.startswith("snapped_")}
        return own


@dataclass(frozen=True)
class LevelMetrics:
    """One resolution level of a stage: its voxel size, and the cost at both of its ends."""

    level_mm: float
    iterations: int
    cost_first: float | None
    cost_last: float | None


LEVEL_KEYS = {
    "level_mm": "level_mm",
    "level_iterations": "iterations",
    "cost_first": "cost_first",
    "cost_last": "cost_last",
}
"""The key of a stage's list in metrics.json, and the attribute of a level that it holds."""


@dataclass(frozen=True)
class StageMetrics:
    """What one stage did, and the landmark error after it where landmarks were given.

    ``notes`` holds what only stages of this kind report.
    """

    name: str
    outcome: str
    message: str
    seconds: float
    iterations: int
    notes: Mapping[str, Any] = field(default_factory=dict)
    levels: tuple[LevelMetrics, ...] = ()
    landmarks: LandmarkMetrics | None = None

    @classmethod
    def from_json(cls, entry: Json) -> Self:
        own = ("name", "outcome", "message", "seconds", "iterations")
        lists = [entry[key] for key in LEVEL_KEYS if key in entry]
        known = {*own, *LEVEL_KEYS, "landmarks"}
        return cls(
            **{name: entry[name] for name in own},
            notes={name: value for name, value in entry.items() if name not in known},
            levels=tuple(LevelMetrics(*values) for values in zip(*lists, strict=True)),
            landmarks=_landmarks(entry),
        )

    def to_json(self) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "name": self.name,
            "outcome": self.outcome,
            "message": self.message,
            "seconds": self.seconds,
            "iterations": self.iterations,
            **self.notes,
        }
        if self.levels:
            for key, attribute in LEVEL_KEYS.items():
                entry[key] = [getattr(level, attribute) for level in self.levels]
        if self.landmarks is not None:
            entry["landmarks"] = self.landmarks.to_json()
        return entry


@dataclass(frozen=True)
class Metrics:
    """All that was measured of a registration; ``landmarks`` is None where none were given."""

    schema: int
    outcome: OutcomeMetrics
    notes: tuple[str, ...]
    stages: tuple[StageMetrics, ...]
    time_s: TimeMetrics
    memory_mb: MemoryMetrics
    similarity: SimilarityMetrics
    jacobian: JacobianMetrics
    inverse: InverseMetrics
    landmarks: LandmarkMetrics | None = None

    @classmethod
    def from_json(cls, content: Json) -> Self:
        """The metrics of the content of metrics.json.

        Raises:
            KeyError: a section or a number is missing.
            TypeError: a section has a key that is not known, or lacks one.
        """
        similarity = content["similarity"]
        return cls(
            schema=content["schema"],
            outcome=OutcomeMetrics(**content["outcome"]),
            notes=tuple(content["notes"]),
            stages=tuple(StageMetrics.from_json(stage) for stage in content["stages"]),
            time_s=TimeMetrics(**content["time_s"]),
            memory_mb=MemoryMetrics(**content["memory_mb"]),
            similarity=SimilarityMetrics(
                Agreement(**similarity["before"]), Agreement(**similarity["after"])
            ),
            jacobian=JacobianMetrics(**content["jacobian"]),
            inverse=InverseMetrics(**content["inverse"]),
            landmarks=_landmarks(content),
        )

    def to_json(self) -> dict[str, Any]:
        """The content of metrics.json."""
        memory = {name: most for name, most in asdict(self.memory_mb).items() if most is not None}
        content = {
            "schema": self.schema,
            "outcome": asdict(self.outcome),
            "notes": list(self.notes),
            "stages": [stage.to_json() for stage in self.stages],
            "time_s": asdict(self.time_s),
            "memory_mb": memory,
            "similarity": asdict(self.similarity),
            "jacobian": asdict(self.jacobian),
            "inverse": asdict(self.inverse),
        }
        if self.landmarks is not None:
            content["landmarks"] = self.landmarks.to_json()
        return content


def _landmarks(entry: Json) -> LandmarkMetrics | None:
    return LandmarkMetrics.from_json(entry["landmarks"]) if "landmarks" in entry else None
