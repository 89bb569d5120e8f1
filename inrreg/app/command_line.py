"""The command line: verbs over the Python API, nothing more.

The same preset gives the same field from Python.

What a verb needs is imported when it runs, so that help comes at once.
"""

import logging
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import DisallowNone, FlagCreatePairsOff, Positional, UseAppendAction, arg

import inrreg
from inrreg.app.console import (
    cohort_table,
    err,
    out,
    pairs_shown,
    progress_shown,
    set_up_logging,
    show_metrics,
)
from inrreg.core.errors import FrameError, InputError, OutputError, RegistrationError

if TYPE_CHECKING:
    from inrreg.app.result import Result

log = logging.getLogger(__name__)

EXIT = {
    "CONVERGED": 0,
    "ITERATION_LIMIT": 0,
    "DIVERGED": 4,
    "NON_FINITE": 4,
    "FOLDED": 5,
    "INTERRUPTED": 130,
}
BAD_INPUT, FAILED, STOPPED = 2, 3, 130
DESCRIPTION = f"""inrreg {inrreg.__version__}: find the map from one image to
another, for the pair at hand.

Exit codes: 0 done, 2 bad input, 3 could not be computed or written, 4 diverged, 5 folded beyond
the limit of the preset, 130 interrupted.
"""

ImageFile = Annotated[Path, Positional, arg(metavar="IMAGE")]
Folder = Annotated[Path, Positional, arg(metavar="RESULT")]
Output = Annotated[Path, arg(aliases=["-o"], metavar="FOLDER")]
OutputFile = Annotated[Path, arg(aliases=["-o"], metavar="FILE")]
OptionalFile = Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(optional)")]
Threads = Annotated[
    int | None, arg(metavar="N", help_behavior_hint="(default: as many as torch chooses)")
]
Device = Annotated[str, arg(metavar="DEVICE")]
Seed = Annotated[int, arg(metavar="N")]
Quiet = Annotated[bool, arg(aliases=["-q"], help_behavior_hint="")]
Verbose = Annotated[bool, arg(aliases=["-v"], help_behavior_hint="")]


def register(
    fixed: Annotated[Path, Positional, arg(metavar="FIXED")],
    moving: Annotated[Path, Positional, arg(metavar="MOVING")],
    output: Output,
    fixed_mask: OptionalFile = None,
    moving_mask: OptionalFile = None,
    landmarks: OptionalFile = None,
    guide_landmarks: OptionalFile = None,
    contrast: UseAppendAction[
        Annotated[
            tuple[tuple[Path, Path], ...],
            arg(metavar="FIXED MOVING", help_behavior_hint="(repeatable)"),
        ]
    ] = (),
    fixed_lesion_mask: OptionalFile = None,
    moving_lesion_mask: OptionalFile = None,
    mask_mode: Annotated[
        Literal["learn", "prior", "fixed"] | None,
        arg(
            metavar="{learn,prior,fixed}",
            help_behavior_hint="(default: prior with a lesion mask, learn without)",
        ),
    ] = None,
    preset: Annotated[str, arg(metavar="NAME")] = "default",
    device: Device = "cpu",
    seed: Seed = 0,
    threads: Threads = None,
    max_memory: Annotated[float | None, arg(metavar="MB", help_behavior_hint="(optional)")] = None,
    dry_run: Annotated[bool, arg(help_behavior_hint="")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Find the map from the fixed to the moving image; write it, the warped image, metrics and a
    report.

    Args:
        fixed: Image whose grid the result lives on (NIfTI, MetaImage, NRRD; PNG and the like have
            pixels of 1 mm).
        moving: Image to be aligned with it.
        output: Result folder; an older result there is replaced, anything else is left alone.
        fixed_mask: 1 where the fixed image shall be used, on its grid.
        moving_mask: 1 where the moving image shall be used, on its grid.
        landmarks: CSV of point pairs (label,fixed_x,...,moving_z in RAS mm) that judge the result;
            the fit never sees them.
        guide_landmarks: CSV of point pairs that pull the fit.
        contrast: A further contrast of the pair, seen at once with the first; what lies on another
            grid is resampled.
        fixed_lesion_mask: 1 where the fixed image has no counterpart, on its grid; for the preset
            pathology.
        moving_lesion_mask: The same of the moving image.
        mask_mode: What to make of lesion masks: find what has no counterpart without any (learn),
            with their help (prior), or take them as they are (fixed).
        preset: What is registered, or how: default, lung, liver, brain, pathology, neural, graph
            or idir.
        device: cpu, cuda or cuda:N.
        seed: Start of all random numbers.
        threads: CPU threads.
        max_memory: Refuse, before any work, what would need more memory than that by our estimate.
        dry_run: Check everything, say what would be done, and stop without writing.
        quiet: Say nothing but errors.
        verbose: Say what each stage does, and show the traceback of an unexpected error.
    """
    from inrreg.app.register import prepare, run
    from inrreg.app.result import check_output

    set_up_logging(quiet, verbose)
    check_output(output)
    masks: dict[str, Any] = {
        "fixed_mask": fixed_mask,
        "moving_mask": moving_mask,
        "fixed_lesion_mask": fixed_lesion_mask,
        "moving_lesion_mask": moving_lesion_mask,
        "mask_mode": mask_mode,
    }
    points: dict[str, Any] = {"landmarks": landmarks, "guide_landmarks": guide_landmarks}
    job = prepare(
        fixed,
        moving,
        preset=preset,
        **masks,
        **points,
        contrasts=contrast,
        device=device,
        seed=seed,
        threads=threads,
        max_memory_mb=max_memory,
    )
    check_output(output, job.pair.fixed.grid)
    if dry_run:
        return _show_plan(job)
    with nullcontext() if quiet else progress_shown() as progress:
        result = run(job, progress)
    result.save(output)
    return _finish(result, output, f"{fixed.name} <- {moving.name}", quiet)


def warp(
    image: ImageFile,
    result: Folder,
    output: OutputFile,
    interpolation: Literal["linear", "cubic", "nearest"] = "linear",
) -> int:
    """Carry an image of the moving space onto the fixed grid, in the array type it has.

    Args:
        image: Image in the moving image's space; its own grid may differ from the moving image's.
        result: Result folder of ``register``.
        output: Image file to write.
        interpolation: nearest for labels and masks.
    """
    from inrreg.io import read_image, read_labels, write_image

    loaded = _load(result)
    warped = (
        loaded.warp(read_labels(image))
        if interpolation == "nearest"
        else loaded.warp(read_image(image), interpolation)
    )
    write_image(warped, output)
    return 0


def points(
    points: Annotated[Path, Positional, arg(metavar="POINTS")],
    result: Folder,
    output: OutputFile,
    direction: Literal["fixed-to-moving", "moving-to-fixed"],
) -> int:
    """Map points; say in which direction.

    Args:
        points: CSV with the header label,x,y,z in RAS mm, or Slicer's .mrk.json or .fcsv.
        result: Result folder of ``register``.
        output: CSV or .mrk.json to write.
        direction: fixed-to-moving for points seen in the fixed image, moving-to-fixed for points
            seen in the moving one.
    """
    import torch

    from inrreg.io import read_points, write_points

    given, transform = read_points(points), _load(result).transform
    if given.coords.shape[1] != transform.ndim:
        raise FrameError(
            f"{points} has points in {given.coords.shape[1]}-D, but the result is in"
            f" {transform.ndim}-D; give points of the same dimension"
        )
    with torch.no_grad():
        mapped = (transform if direction == "fixed-to-moving" else transform.inverse())(
            given.coords
        )
    write_points(replace(given, coords=mapped), output)
    return 0


def jacobian(result: Folder, output: OutputFile) -> int:
    """Write the Jacobian determinant of the map on the fixed grid: below 1 tissue is smaller in the
    moving image, at or below 0 the map folds.

    Args:
        result: Result folder of ``register``.
        output: Image file to write.
    """
    from inrreg.core.image import Image
    from inrreg.evaluation import jacobian_determinant, jacobian_statistics
    from inrreg.io import write_image

    loaded = _load(result)
    determinant = jacobian_determinant(loaded.transform, loaded.grid)
    write_image(Image.from_array(determinant, loaded.grid, "Jacobian determinant"), output)
    show_metrics(
        {"jacobian": {"region": "whole image", **jacobian_statistics(determinant).to_json()}},
        str(result),
    )
    return 0


def evaluate(
    result: Folder,
    landmarks: OptionalFile = None,
    fixed_labels: OptionalFile = None,
    moving_labels: OptionalFile = None,
    mask: OptionalFile = None,
    output: Annotated[
        Path | None, arg(aliases=["-o"], metavar="FILE", help_behavior_hint="(optional)")
    ] = None,
) -> int:
    """Judge a result by what the fit has not seen: landmarks, labels, the Jacobian inside a mask.

    Args:
        result: Result folder of ``register``.
        landmarks: CSV of point pairs, RAS mm.
        fixed_labels: Label image on the fixed grid.
        moving_labels: Label image in the moving space.
        mask: 1 where the Jacobian counts, on the fixed grid.
        output: JSON file for all numbers.
    """
    from inrreg.app.evaluate_result import evaluate_result
    from inrreg.app.result import write_json

    numbers = evaluate_result(
        _load(result),
        landmarks=landmarks,
        fixed_labels=fixed_labels,
        moving_labels=moving_labels,
        mask=mask,
    )
    if output is not None:
        write_json(numbers, output)
    show_metrics(numbers, str(result))
    return 0


def cohort(
    pairs: Annotated[Path, Positional, arg(metavar="PAIRS")],
    output: Output,
    preset: Annotated[str, arg(metavar="NAME")] = "default",
    device: Device = "cpu",
    seed: Seed = 0,
    processes: Annotated[
        int | None,
        arg(metavar="N", help_behavior_hint="(default: as many as there are cores, one on a GPU)"),
    ] = None,
    threads: Annotated[
        int | None, arg(metavar="N", help_behavior_hint="(default: the cores shared out)")
    ] = None,
    scheduler: Annotated[
        str | None, arg(metavar="ADDRESS", help_behavior_hint="(default: this machine)")
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Register many pairs, several at once, and end in one table; what is done already is not done
    again.

    Args:
        pairs: CSV with the columns name, fixed, moving, and as wanted fixed_mask, moving_mask,
            landmarks (or fixed_landmarks and moving_landmarks), guide_landmarks, preset; files
            relative to it.
        output: Folder for a result folder a pair and the table cohort.csv.
        preset: For the pairs whose line names none.
        device: cpu, cuda or cuda:N.
        seed: Start of all random numbers.
        processes: Pairs that run at once on this machine; each needs the memory of its own run.
        threads: CPU threads of each pair.
        scheduler: Address of a Dask scheduler whose workers see the same files; each of their
            threads takes a pair.
        quiet: Say nothing but errors.
        verbose: Show the traceback of an unexpected error.
    """
    from inrreg.app.cohort import TABLE, run

    set_up_logging(quiet, verbose)
    try:
        with nullcontext() if quiet else pairs_shown() as progress:
            rows = run(
                pairs,
                output,
                preset=preset,
                device=device,
                seed=seed,
                processes=processes,
                threads=threads,
                scheduler=scheduler,
                progress=progress,
            )
    except KeyboardInterrupt:
        log.error(
            "stopped; what was done until then stands in %s, and the same command goes on from"
            " there",
            output / TABLE,
        )
        return STOPPED
    if not quiet:
        out.print(cohort_table(rows))
        out.print(f"table: {output / TABLE}", soft_wrap=True, markup=False, highlight=False)
    return max(EXIT.get(row["outcome"].upper(), FAILED) for row in rows)


def demo(
    what: Annotated[Literal["lung"], Positional] = "lung",
    output: Output = Path("demo"),
    size: Annotated[int, arg(metavar="N")] = 96,
    motion_mm: Annotated[float, arg(metavar="MM")] = 20.0,
    seed: Seed = 0,
    threads: Threads = None,
    device: Device = "cpu",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Make a breathing lung pair with known truth, register it, and say how far off the answer is.

    Args:
        what: Kind of phantom.
        output: Folder for the pair (``pair``) and the result (``result``).
        size: Voxels along the longest axis; the field of view stays the same.
        motion_mm: Mean motion of the landmarks in the lungs.
        seed: Start of all random numbers.
        threads: CPU threads.
        device: cpu, cuda or cuda:N.
        quiet: Say nothing but errors.
        verbose: Say what each stage does, and show the traceback of an unexpected error.
    """
    from inrreg.app.demo import lung_demo

    set_up_logging(quiet, verbose)
    with nullcontext() if quiet else progress_shown() as progress:
        result = lung_demo(
            output,
            size=size,
            motion_mm=motion_mm,
            seed=seed,
            threads=threads,
            device=device,
            progress=progress,
        )
    return _finish(result, output / "result", f"{what} phantom against its known truth", quiet)


def doctor() -> int:
    """Say what this installation can do, and why not where it cannot."""
    from inrreg.app.doctor import findings

    for name, finding in findings():
        out.print(f"{name:<14} {finding}", highlight=False, soft_wrap=True)
    return 0


def _load(folder: Path) -> "Result":
    from inrreg.app.result import load

    return load(folder)


def _show_plan(job: Any) -> int:
    """The checked geometry and the stages of a job."""
    from inrreg.app.plan import plan

    for name, finding in plan(job):
        out.print(f"{name:<12} {finding}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _finish(result: "Result", folder: Path, title: str, quiet: bool) -> int:
    """Show what was found and where it lies; the exit code of the outcome."""
    if not quiet:
        show_metrics(result.metrics.to_json(), title)
        out.print(
            f"report: {folder / 'report.html'}", soft_wrap=True, markup=False, highlight=False
        )
    if not result.outcome.usable:
        log.error("%s: %s", result.outcome.label, result.outcome.value)
    return EXIT[result.outcome.name]


VERBS: dict[str, Callable[..., int]] = {
    "register": register,
    "warp": warp,
    "points": points,
    "jacobian": jacobian,
    "evaluate": evaluate,
    "cohort": cohort,
    "demo": demo,
    "doctor": doctor,
}


def main(arguments: list[str] | None = None) -> None:
    """Run one verb and exit with its code."""
    given = sys.argv[1:] if arguments is None else arguments
    if given == ["--version"]:
        out.print(f"inrreg {inrreg.__version__}", highlight=False)
        sys.exit(0)
    set_up_logging()
    try:
        sys.exit(
            tyro.extras.subcommand_cli_from_dict(
                VERBS,
                prog="inrreg",
                description=DESCRIPTION,
                args=given,
                config=(DisallowNone, FlagCreatePairsOff),
            )
        )
    except InputError as error:
        _fail(str(error), BAD_INPUT)
    except (OutputError, RegistrationError) as error:
        _fail(str(error), FAILED)
    except KeyboardInterrupt:
        _fail("stopped; nothing was written", STOPPED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except (
        Exception
    ) as error:  # the last resort: a defect of ours, told in one line like everything else
        log.debug("", exc_info=True)
        _fail(
            f"unexpected {type(error).__name__} ({error}), which is a defect of inrreg; please"
            " report it with the traceback that --verbose shows",
            FAILED,
        )


def _fail(reason: str, code: int) -> None:
    err.print(f"inrreg: {' '.join(reason.split())}", highlight=False, soft_wrap=True, markup=False)
    sys.exit(code)


if __name__ == "__main__":
    main()
