"""The verbs that use a result: warp, points, jacobian, evaluate."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from inrreg.app.command_line.options import (
    Folder,
    ImageFile,
    OptionalFile,
    OutputFile,
    load_result,
)
from inrreg.app.console import show_metrics
from inrreg.core.errors import FrameError


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

    loaded = load_result(result)
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

    given, transform = read_points(points), load_result(result).transform
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

    loaded = load_result(result)
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
        load_result(result),
        landmarks=landmarks,
        fixed_labels=fixed_labels,
        moving_labels=moving_labels,
        mask=mask,
    )
    if output is not None:
        write_json(numbers, output)
    show_metrics(numbers, str(result))
    return 0
