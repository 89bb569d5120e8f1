"""The roof: ``register`` loads two images, runs the stages of a preset, measures, and hands over a result that can be saved."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from inrreg.checks import check_intensities, check_landmarks, check_mask, check_pairs, check_same_dimension
from inrreg.errors import InputError
from inrreg.evaluation import jacobian_statistics
from inrreg.image import Image, Points
from inrreg.io import as_image, as_mask, read_point_pairs
from inrreg.measure import SCHEMA, Landmarks, final_outcome, measurements, on_fixed_grid, peak_memory_mb, stage_entry
from inrreg.optimisation import Outcome
from inrreg.pair import Pair
from inrreg.presets import Preset
from inrreg.presets import preset as named_preset
from inrreg.result import MARK, Result
from inrreg.settings import described, file_hash, fingerprint, versions
from inrreg.stage import Progress, StageResult, Stopwatch
from inrreg.transforms import Transform

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Job:
    """A checked request: the pair, the strategy, and where the inputs came from."""

    pair: Pair
    preset: Preset
    device: torch.device
    seed: int
    threads: int | None
    sources: dict[str, Any]
    initial: Transform | None = None


def register(
    fixed: Any,
    moving: Any,
    *,
    preset: str | Preset = "default",
    fixed_mask: Any = None,
    moving_mask: Any = None,
    landmarks: Any = None,
    guide_landmarks: Any = None,
    initial: Transform | None = None,
    device: str = "cpu",
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Result:
    """Find the map from fixed to moving world points.

    Images and masks (1 means "use this") are paths, nibabel or SimpleITK images, or ``Image``; landmarks are a CSV path of
    pairs or ``(fixed, moving)`` ``Points`` in RAS mm. ``landmarks`` only judge the result, ``guide_landmarks`` pull it.
    ``initial`` maps fixed to moving points and is improved on. The same inputs, seed and thread count give the same field.

    Raises:
        InputError: something about the input is wrong; nothing has been computed then.
    """
    job = prepare(
        fixed, moving, preset=preset, fixed_mask=fixed_mask, moving_mask=moving_mask, landmarks=landmarks, guide_landmarks=guide_landmarks, initial=initial, device=device, seed=seed, threads=threads
    )
    return run(job, landmarks, progress)


def prepare(
    fixed: Any,
    moving: Any,
    *,
    preset: str | Preset = "default",
    fixed_mask: Any = None,
    moving_mask: Any = None,
    landmarks: Any = None,
    guide_landmarks: Any = None,
    initial: Transform | None = None,
    device: str = "cpu",
    seed: int = 0,
    threads: int | None = None,
) -> Job:
    """Load and check everything ``register`` needs, without computing anything; the arguments are those of ``register``.

    ``landmarks`` are looked at only to refuse a file that could not be used afterwards; the job does not hold them.
    """
    chosen = named_preset(preset) if isinstance(preset, str) else preset
    target = _device(device)
    if threads is not None and threads < 1:
        raise InputError(f"threads must be 1 or more, got {threads}")
    images = {"fixed": as_image(fixed, "fixed"), "moving": as_image(moving, "moving")}
    check_same_dimension(images["fixed"], images["moving"])
    for image in images.values():
        check_intensities(image)
    masks: dict[str, Image | None] = {}
    for name, mask, image in (("fixed mask", fixed_mask, images["fixed"]), ("moving mask", moving_mask, images["moving"])):
        masks[name] = None if mask is None else as_mask(mask, name)
        if (given := masks[name]) is not None:
            check_mask(given, image)
    pair = Pair(images["fixed"], images["moving"], masks["fixed mask"], masks["moving mask"])
    _checked_landmarks(landmarks, pair, "landmarks")
    guides = _checked_landmarks(guide_landmarks, pair, "guide landmarks")
    pair = Pair(pair.fixed, pair.moving, pair.fixed_mask, pair.moving_mask, guides)
    sources = {"fixed": fixed, "moving": moving, "fixed_mask": fixed_mask, "moving_mask": moving_mask, "guide_landmarks": guide_landmarks}
    return Job(pair, chosen, target, seed, threads, sources, initial)


def run(job: Job, landmarks: Any = None, progress: Progress | None = None) -> Result:
    """Run the stages of a prepared job, then measure; ``landmarks`` are read after the last stage."""
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    if job.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(job.device)
    watch = Stopwatch()
    stages = run_stages(job.preset.stages, job.pair.prepared(job.preset.intensity).to(job.device), job.initial, seed=job.seed, progress=progress)
    fitted = watch.seconds
    truth = None if landmarks is None else _read_landmarks(landmarks, "landmarks")
    transform = stages[-1].transform
    pair = job.pair.to(job.device)
    warped, before, determinant = on_fixed_grid(pair, transform)
    folded = jacobian_statistics(determinant, pair.fixed_mask).folded_percent
    outcome = final_outcome(stages, folded, job.preset.folding_limit_percent)
    numbers = measurements(pair, transform, determinant, warped, before, truth)
    metrics = {
        "schema": SCHEMA,
        "outcome": {"name": outcome.name, "message": outcome.value},
        "stages": [stage_entry(stage, truth) for stage in stages],
        "time_s": {"stages": fitted, "measuring": watch.seconds - fitted, "total": watch.seconds},
        "memory_mb": peak_memory_mb(job.device),
        **numbers,
    }
    return Result(transform, pair.fixed.grid, outcome, metrics, configuration(job), pair, truth, [record for stage in stages for record in stage.history])


def run_stages(stages: Sequence[Any], pair: Pair, initial: Transform | None, *, seed: int = 0, progress: Progress | None = None) -> list[StageResult]:
    """Each stage from what the one before found; an interrupt or a non-finite cost ends the chain with what was reached."""
    results: list[StageResult] = []
    for stage in stages:
        results.append(stage.run(pair, results[-1].transform if results else initial, seed=seed, progress=progress))
        if results[-1].outcome in (Outcome.INTERRUPTED, Outcome.NON_FINITE):
            log.warning("%s ended early: %s", stage.name, results[-1].outcome.value)
            break
    return results


def configuration(job: Job) -> dict[str, Any]:
    """Every setting of a job, resolved: the content of config.json."""
    pair = job.pair
    return {
        MARK: versions()["inrreg"],
        "schema": SCHEMA,
        "frame": "RAS mm; the transform maps fixed world points to moving world points",
        "preset": described(job.preset),
        "seed": job.seed,
        "threads": torch.get_num_threads() if job.threads is None else job.threads,
        "device": str(job.device),
        "versions": versions(),
        "inputs": {name: file_hash(source) for name, source in job.sources.items() if source is not None},
        "fixed": {"name": pair.fixed.name, "grid": pair.fixed.grid.to_json(), "sha256": fingerprint(pair.fixed)},
        "moving": {"name": pair.moving.name, "grid": pair.moving.grid.to_json(), "sha256": fingerprint(pair.moving)},
        "initial": None if job.initial is None else described(job.initial),
    }


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"no device is called {name!r}; use cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device {name!r} is not supported; use cpu, cuda or cuda:N")
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise InputError(f"device {name!r} was asked for, but torch sees {torch.cuda.device_count()} CUDA devices; use device cpu, or run `inrreg doctor` to see why")
    return device


def _read_landmarks(source: Any, name: str) -> Landmarks:
    if isinstance(source, tuple) and len(source) == 2 and all(isinstance(points, Points) for points in source):
        fixed, moving = source
    elif isinstance(source, tuple) and len(source) == 2:
        fixed, moving = (Points.from_array(np.asarray(points), name=f"{which} {name}") for which, points in zip(("fixed", "moving"), source, strict=True))
    else:
        fixed, moving = read_point_pairs(source)
    check_pairs(fixed, moving)
    return fixed, moving


def _checked_landmarks(source: Any, pair: Pair, name: str) -> Landmarks | None:
    if source is None:
        return None
    fixed, moving = _read_landmarks(source, name)
    check_landmarks(fixed, pair.fixed.grid, f"fixed {name}")
    check_landmarks(moving, pair.moving.grid, f"moving {name}")
    return fixed, moving
