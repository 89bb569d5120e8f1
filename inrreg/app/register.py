"""The roof: ``register`` loads two images, runs the stages of a preset, measures, and hands over a
result that can be saved.
"""

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from inrreg.app.config import input_entry, versions
from inrreg.app.contrasts import further_contrasts, in_units_of, one_channel, seen_at_once
from inrreg.app.lesion_masks import MaskMode, lesion_mask, with_mask_mode
from inrreg.app.memory import check_memory
from inrreg.app.metrics import (
    SCHEMA,
    Landmarks,
    final_outcome,
    key,
    measurements,
    peak_memory_mb,
    rendered,
    stage_entry,
    strict,
)
from inrreg.app.result import VERSION_KEY, Result
from inrreg.app.typed_metrics import Metrics
from inrreg.core.checks import check_landmarks, check_mask, check_same_dimension
from inrreg.core.errors import FrameError, InputError, RegistrationError
from inrreg.core.image import Image, Points
from inrreg.core.image_pair import ImagePair
from inrreg.core.precision import full_single_precision
from inrreg.core.stopwatch import Stopwatch
from inrreg.core.threads import limit_threads
from inrreg.evaluation import jacobian_statistics
from inrreg.io import as_mask, pair_points, read_point_pairs, read_points
from inrreg.optimisation import Outcome
from inrreg.optimisation.stage_result import Progress, StageResult
from inrreg.presets import Preset
from inrreg.presets import preset as named_preset
from inrreg.stages.protocol import STOPPING_OUTCOMES, Stage
from inrreg.transforms import Transform
from inrreg.transforms.description import described

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Request:
    """A checked request: the pair, the strategy, what judges the result (the stages never see it),
    and config.json; ``notes`` are the warnings said so far.
    """

    pair: ImagePair
    preset: Preset
    device: torch.device
    seed: int
    threads: int
    config: dict[str, Any]
    initial: Transform | None = None
    landmarks: Landmarks | None = None
    contrasts: tuple[tuple[Image, Image], ...] = ()
    loading_s: float = 0.0
    notes: list[str] = field(default_factory=list)


def register(
    fixed: Any,
    moving: Any,
    *,
    preset: str | Preset = "default",
    fixed_mask: Any = None,
    moving_mask: Any = None,
    landmarks: Any = None,
    guide_landmarks: Any = None,
    contrasts: Sequence[tuple[Any, Any]] = (),
    fixed_lesion_mask: Any = None,
    moving_lesion_mask: Any = None,
    mask_mode: MaskMode | None = None,
    initial: Transform | None = None,
    device: str = "cpu",
    seed: int = 0,
    threads: int | None = None,
    max_memory_mb: float | None = None,
    progress: Progress | None = None,
) -> Result:
    """Find the map from fixed to moving world points.

    Images and masks (1 means "use this") are paths, nibabel or SimpleITK images, or ``Image``;
    landmarks are a CSV path of pairs or ``(fixed, moving)``, each ``Points`` or an array ``[n,
    d]``, RAS mm. ``landmarks`` only judge the result, ``guide_landmarks`` pull it. ``contrasts``
    are further contrasts of the pair, ``(fixed, moving)`` each, seen at once with the first. Lesion
    masks (1 means "has no counterpart") are for presets such as pathology: with the ``mask_mode``
    "fixed" they are left out and nothing else, with "prior" they help to find what has no
    counterpart, with "learn" there are none. ``initial`` maps fixed to moving points and is
    improved on. The same inputs, seed and thread count give the same field, bit for bit, on a CPU.
    What would need more than ``max_memory_mb`` of memory by our estimate is refused. A
    KeyboardInterrupt ends the run with what was found until then: the outcome is ``INTERRUPTED``.

    Raises:
        InputError: something about the input is wrong; nothing has been computed then.
        RegistrationError: out of memory.
    """
    job = prepare(
        fixed,
        moving,
        preset=preset,
        fixed_mask=fixed_mask,
        moving_mask=moving_mask,
        landmarks=landmarks,
        guide_landmarks=guide_landmarks,
        contrasts=contrasts,
        fixed_lesion_mask=fixed_lesion_mask,
        moving_lesion_mask=moving_lesion_mask,
        mask_mode=mask_mode,
        initial=initial,
        device=device,
        seed=seed,
        threads=threads,
        max_memory_mb=max_memory_mb,
    )
    return run(job, progress)


def prepare(
    fixed: Any,
    moving: Any,
    *,
    preset: str | Preset = "default",
    fixed_mask: Any = None,
    moving_mask: Any = None,
    landmarks: Any = None,
    guide_landmarks: Any = None,
    contrasts: Sequence[tuple[Any, Any]] = (),
    fixed_lesion_mask: Any = None,
    moving_lesion_mask: Any = None,
    mask_mode: MaskMode | None = None,
    initial: Transform | None = None,
    device: str = "cpu",
    seed: int = 0,
    threads: int | None = None,
    max_memory_mb: float | None = None,
) -> Request:
    """Load and check everything ``register`` needs, without computing anything; arguments and
    errors are those of ``register``.
    """
    watch = Stopwatch()
    chosen, target = _preset(preset), _device(device)
    _check_numbers(seed, threads)
    with _warnings_noted() as notes:
        images = {"fixed": one_channel(fixed, "fixed"), "moving": one_channel(moving, "moving")}
        check_same_dimension(images["fixed"], images["moving"])
        masks = {
            which: _mask(mask, f"{which} mask", images[which], chosen)
            for which, mask in (("fixed", fixed_mask), ("moving", moving_mask))
        }
        truth, guides = (
            _landmarks(source, images, name)
            for source, name in ((landmarks, "landmarks"), (guide_landmarks, "guide landmarks"))
        )
        lesions = {
            which: lesion_mask(mask, f"{which} lesion mask", images[which], masks[which])
            for which, mask in (("fixed", fixed_lesion_mask), ("moving", moving_lesion_mask))
        }
        chosen, mode = with_mask_mode(chosen, mask_mode, lesions)
        further = further_contrasts(contrasts, images["fixed"], images["moving"])
        _check_initial(initial, images["fixed"].grid.ndim)
    given = {
        "fixed": (fixed, images["fixed"]),
        "moving": (moving, images["moving"]),
        "fixed_mask": (fixed_mask, masks["fixed"]),
        "moving_mask": (moving_mask, masks["moving"]),
        "landmarks": (landmarks, truth),
        "guide_landmarks": (guide_landmarks, guides),
        "fixed_lesion_mask": (fixed_lesion_mask, lesions["fixed"]),
        "moving_lesion_mask": (moving_lesion_mask, lesions["moving"]),
    }
    config = {
        **_settings(chosen, mode, seed, target, threads, initial),
        "inputs": {
            name: None if content is None else input_entry(source, content)
            for name, (source, content) in given.items()
        },
        "contrasts": [
            [input_entry(source, image) for source, image in zip(*both, strict=True)]
            for both in zip(contrasts, further, strict=True)
        ],
    }
    pair = ImagePair(
        images["fixed"],
        images["moving"],
        masks["fixed"],
        masks["moving"],
        guides,
        lesions["fixed"],
        lesions["moving"],
    )
    check_memory(pair, chosen, max_memory_mb, 1 + len(further))
    return Request(
        pair,
        chosen,
        target,
        seed,
        config["threads"],
        config,
        initial,
        truth,
        further,
        watch.seconds,
        notes,
    )


def _settings(
    preset: Preset,
    mask_mode: MaskMode | None,
    seed: int,
    device: torch.device,
    threads: int | None,
    initial: Transform | None,
) -> dict[str, Any]:
    """What config.json says apart from the inputs."""
    return {
        VERSION_KEY: versions()["inrreg"],
        "schema": SCHEMA,
        "frame": "RAS mm; the transform maps fixed world points to moving world points",
        "preset": described(preset),
        "mask_mode": mask_mode,
        "seed": seed,
        "device": str(device),
        "threads": threads or torch.get_num_threads(),
        "versions": versions(),
        "initial": described(initial),
    }


def run(job: Request, progress: Progress | None = None) -> Result:
    """Run the stages of a prepared job, then measure.

    Raises:
        InputError: a stage cannot work on these images.
        RegistrationError: out of memory.
    """
    try:
        with _warnings_noted() as notes, limit_threads(job.threads), full_single_precision():
            return _run(job, progress, notes)
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise RegistrationError(
            f"out of memory on {job.device}"
            f" ({str(error).splitlines()[0] if str(error) else 'no detail'}); take a preset with"
            " coarser levels, smaller images or another device"
        ) from error


def _run(job: Request, progress: Progress | None, notes: list[str]) -> Result:
    watch = Stopwatch()
    pair = job.pair.to(job.device)
    if job.device.type == "cuda":
        # after the first copy to the device, which initialises CUDA
        torch.cuda.reset_peak_memory_stats(job.device)
    contrasts = [(fixed.to(job.device), moving.to(job.device)) for fixed, moving in job.contrasts]
    seen = seen_at_once(pair, contrasts, job.preset.intensity)
    stages = run_stages(
        job.preset.stages, seen, copy.deepcopy(job.initial), seed=job.seed, progress=progress
    )
    fitted, transform = watch.seconds, stages[-1].transform
    on_grid = rendered(pair, transform)
    numbers = measurements(pair, transform, on_grid, job.landmarks)
    folded = jacobian_statistics(on_grid.determinant, pair.fixed_mask).folded_percent
    outcome = final_outcome(stages, folded, job.preset.folding_limit_percent)
    measured = watch.seconds - fitted
    metrics = {
        "schema": SCHEMA,
        "outcome": {"name": key(outcome), "message": outcome.value},
        "notes": [*job.notes, *notes],
        "stages": [stage_entry(stage, job.landmarks) for stage in stages],
        "time_s": {
            "loading": job.loading_s,
            "stages": fitted,
            "measuring": measured,
            "total": job.loading_s + fitted + measured,
        },
        "memory_mb": peak_memory_mb(job.device),
        **numbers,
    }
    history = [record for stage in stages for record in stage.history]
    matched = next(
        (stage.correspondences for stage in reversed(stages) if stage.correspondences is not None),
        None,
    )
    change = next(
        (
            in_units_of(stage.change, job.pair.fixed, seen.fixed)
            for stage in reversed(stages)
            if stage.change is not None
        ),
        None,
    )
    return Result(
        transform.to("cpu"),
        pair.fixed.grid,
        outcome,
        Metrics.from_json(strict(metrics)),
        job.config,
        job.pair,
        job.landmarks,
        history,
        on_grid.to("cpu"),
        matched,
        change,
    )


def run_stages(
    stages: Sequence[Stage],
    pair: ImagePair,
    initial: Transform | None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[StageResult]:
    """Each stage from what the one before found; an interrupt or a non-finite cost ends the chain
    with what was reached.

    Raises:
        KeyboardInterrupt: before the first stage has found anything.
    """
    results: list[StageResult] = []
    for stage in stages:
        watch = Stopwatch()
        try:
            results.append(
                stage.run(
                    pair,
                    results[-1].transform if results else initial,
                    seed=seed,
                    progress=progress,
                )
            )
        except KeyboardInterrupt:
            if not results:
                raise
            results.append(
                StageResult(
                    stage.name,
                    results[-1].transform,
                    Outcome.INTERRUPTED,
                    watch.seconds,
                    notes={"kept": False},
                )
            )
        if results[-1].outcome in STOPPING_OUTCOMES:
            log.warning("%s", _early_end(results))
            break
    return results


def _early_end(results: Sequence[StageResult]) -> str:
    """Where the last stage ended, and what was kept."""
    last = results[-1]
    why = (
        "was stopped on request"
        if last.outcome is Outcome.INTERRUPTED
        else "met a cost that is not finite"
    )
    if not last.history:
        return (
            f"stage {last.name} {why} before its first iteration was done;"
            f" {f'what stage {results[-2].name} found' if len(results) > 1 else 'the start'} is"
            " kept"
        )
    at = last.history[-1]
    return (
        f"stage {last.name} {why} at {at.level_mm:g} mm; the map after iteration {at.iteration + 1}"
        f" of {at.iterations} is kept"
    )


def _preset(preset: str | Preset) -> Preset:
    chosen = named_preset(preset) if isinstance(preset, str) else preset
    if not isinstance(chosen, Preset):
        raise InputError(
            f"preset is a {type(preset).__name__}; give the name of one, or an inrreg.Preset"
        )
    if not chosen.stages:
        raise InputError(
            f"the preset {chosen.name!r} has no stages; give it at least one, for instance"
            " stages=(InitialTranslation(),)"
        )
    return chosen


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"no device is called {name!r}; use cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device {name!r} is not supported; use cpu, cuda or cuda:N")
    if device.type == "cuda" and (
        not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()
    ):
        raise InputError(
            f"device {name!r} was asked for, but torch sees {torch.cuda.device_count()} CUDA"
            " devices; use device cpu, or run `inrreg doctor` to see why"
        )
    return device


def _check_numbers(seed: int, threads: int | None) -> None:
    if threads is not None and threads < 1:
        raise InputError(f"threads must be 1 or more, got {threads}")
    if not -(2**63) <= seed < 2**63:
        raise InputError(f"seed must be a whole number of 64 bits, got {seed}")


def _check_initial(initial: Any, ndim: int) -> None:
    if initial is None:
        return
    if not isinstance(initial, Transform):
        raise InputError(
            f"initial is a {type(initial).__name__}; give an inrreg Transform, for instance"
            " inrreg.load(folder).transform"
        )
    if initial.ndim != ndim:
        raise FrameError(
            f"initial is a {initial.ndim}-D transform, but the images are {ndim}-D; give one of the"
            " same dimension"
        )


def _mask(source: Any, name: str, image: Image, preset: Preset) -> Image | None:
    """The mask of an image, which must not be flat inside it; one that the preset finds where none
    is given.
    """
    if source is None and preset.find_mask is None:
        return None
    if source is None and preset.find_mask is not None:
        found = preset.find_mask(image)
        log.warning(
            "no %s was given: preset %s found one over %.0f %% of the image; look at it in the"
            " report",
            name,
            preset.name,
            100 * float(found.data.mean()),
        )
        return found
    mask = as_mask(source, name).to("cpu")
    check_mask(mask, image)
    lowest, highest = image.data.masked_select(mask.data > 0).aminmax()
    if lowest == highest:
        raise InputError(
            f"{image.name} is {float(lowest):g} everywhere inside {mask.name}, so nothing there can"
            " be aligned; check that the mask belongs to the image"
        )
    return mask


def _landmarks(source: Any, images: dict[str, Image], name: str) -> Landmarks | None:
    """Pairs of points that lie in their images."""
    if source is None:
        return None
    if isinstance(source, str | Path):
        fixed, moving = read_point_pairs(source)
    elif isinstance(source, Sequence) and len(source) == 2:
        fixed, moving = pair_points(
            _points(source[0], f"fixed {name}"), _points(source[1], f"moving {name}")
        )
    else:
        raise InputError(
            f"{name} are a {type(source).__name__}; give a CSV path, or (fixed, moving), each"
            " Points, a path or an array [n, d] of RAS mm"
        )
    for points, (which, image) in zip((fixed, moving), images.items(), strict=True):
        check_landmarks(
            points, image.grid, points.name if which in points.name else f"{which} {points.name}"
        )
    return fixed, replace(moving, labels=fixed.labels)


def _points(given: Any, name: str) -> Points:
    if isinstance(given, str | Path):
        return read_points(given)
    try:
        points = given if isinstance(given, Points) else Points.from_array(given, name=name)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name} are no numbers ({error}); give Points, a path or an array [n, d] of RAS mm"
        ) from error
    if points.coords.ndim != 2 or len(points) == 0 or not bool(torch.isfinite(points.coords).all()):
        raise InputError(
            f"{name} have the shape {tuple(points.coords.shape)} or hold NaN or infinite values;"
            " give one row of finite RAS mm a point"
        )
    return replace(points, name=name if points.name == "points" else points.name)


class _Notes(logging.Handler):
    """Keeps the warnings said by one run, in whichever thread: they stand in metrics.json and in
    the report too.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.sentences = list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        if _noting.get() is self:
            self.sentences.append(record.getMessage())


_noting: ContextVar[_Notes | None] = ContextVar("who keeps warnings", default=None)


@contextmanager
def _warnings_noted() -> Iterator[list[str]]:
    """The warnings said inside the block."""
    notes, loggers = _Notes(), [logging.getLogger(package) for package in ("inrreg", "graphreg")]
    for logger in loggers:
        logger.addHandler(notes)
    token = _noting.set(notes)
    try:
        yield notes.sentences
    finally:
        _noting.reset(token)
        for logger in loggers:
            logger.removeHandler(notes)
