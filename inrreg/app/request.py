"""The request: every option of a registration, defined once.

``register`` and ``prepare`` take the fields of ``Request`` as their arguments, the command line
makes its options from them, and config.json holds their values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from inrreg.app.mask_mode import MaskMode
from inrreg.core.errors import FrameError, InputError

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike

    from inrreg.core.grid import Grid
    from inrreg.io.input_types import ImageLike, MaskLike, PairsLike
    from inrreg.optimisation.stage_result import Progress
    from inrreg.presets import Preset
    from inrreg.transforms import Transform


def _option(help_text: str, metavar: str, kind: Any, default: Any = None, hint: str = "") -> Any:
    """A field that is also an option of the command line, where it has the type ``kind``."""
    shown = hint or ("(optional)" if default is None else f"(default: {default})")
    return field(
        default=default,
        metadata={"help": help_text, "metavar": metavar, "kind": kind, "hint": shown},
    )


@dataclass(frozen=True, eq=False)
class Request:
    """Everything that one registration is asked to do.

    ``spacing`` (mm) or ``affine`` (voxel index to RAS mm, homogeneous) is the grid of the images
    and masks that are numpy arrays. ``progress`` is called after each iteration. The help texts of
    the other fields are those of ``inrreg register --help``.

    Raises:
        InputError: a number that is out of range, or a grid that is given in two ways.
    """

    fixed: "ImageLike" = field(
        metadata={
            "help": "Image whose grid the result lies on (NIfTI, MetaImage, NRRD; PNG and similar"
            " formats have pixels of 1 mm).",
            "metavar": "FIXED",
            "kind": Path,
            "hint": "(required, unless a config.json is given)",
        }
    )
    moving: "ImageLike" = field(
        metadata={
            "help": "Image to be aligned with the fixed image.",
            "metavar": "MOVING",
            "kind": Path,
            "hint": "(required, unless a config.json is given)",
        }
    )
    _: KW_ONLY
    preset: "str | Preset" = _option(
        "What is registered, or how: default, lung, liver, brain, pathology, neural, graph or"
        " idir.",
        "NAME",
        str,
        "default",
    )
    settings: Mapping[str, object] | None = field(
        default=None,
        metadata={
            "help": "Change one value of the preset, for instance"
            " continuous.optimiser.learning_rate=0.2.",
            "metavar": "STAGE.OPTION=VALUE",
            "kind": tuple[str, ...],
            "hint": "(repeatable)",
            "flag": "set",
        },
    )
    fixed_mask: "MaskLike | None" = _option(
        "1 where the fixed image is used, on its grid.", "FILE", Path
    )
    moving_mask: "MaskLike | None" = _option(
        "1 where the moving image is used, on its grid.", "FILE", Path
    )
    landmarks: "PairsLike | None" = _option(
        "CSV of point pairs (label,fixed_x,...,moving_z in RAS mm) that measure the error; the fit"
        " does not use them.",
        "FILE",
        Path,
    )
    guide_landmarks: "PairsLike | None" = _option(
        "CSV of point pairs that the fit uses.", "FILE", Path
    )
    contrasts: "Sequence[tuple[ImageLike, ImageLike]]" = field(
        default=(),
        metadata={
            "help": "A further contrast of the pair, used together with the first; an image on"
            " another grid is resampled.",
            "metavar": "FIXED MOVING",
            "kind": tuple[tuple[Path, Path], ...],
            "hint": "(repeatable)",
            "flag": "contrast",
        },
    )
    fixed_lesion_mask: "MaskLike | None" = _option(
        "1 where the fixed image has no counterpart, on its grid; for the preset pathology.",
        "FILE",
        Path,
    )
    moving_lesion_mask: "MaskLike | None" = _option(
        "1 where the moving image has no counterpart, on its grid; for the preset pathology.",
        "FILE",
        Path,
    )
    mask_mode: MaskMode | None = _option(
        "How lesion masks are used: find regions without a counterpart without masks (learn), find"
        " them with the help of the masks (prior), or use the masks unchanged (fixed).",
        "{learn,prior,fixed}",
        MaskMode,
        hint="(default: prior with a lesion mask, learn without)",
    )
    initial: "Transform | None" = None
    device: str = _option("cpu, cuda or cuda:N.", "DEVICE", str, "cpu")
    seed: int = _option("Seed of all random numbers.", "N", int, 0)
    threads: int | None = _option(
        "CPU threads.", "N", int, hint="(default: as many as torch chooses)"
    )
    max_memory_mb: float | None = field(
        default=None,
        metadata={
            "help": "Refuse, before any work, a registration that needs more memory than this by"
            " our estimate.",
            "metavar": "MB",
            "kind": float,
            "hint": "(optional)",
            "flag": "max-memory",
        },
    )
    spacing: float | Sequence[float] | None = None
    affine: "ArrayLike | None" = None
    progress: "Progress | None" = None

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads must be 1 or more, got {self.threads}")
        if not -(2**63) <= self.seed < 2**63:
            raise InputError(f"seed must be a whole number of 64 bits, got {self.seed}")
        if self.spacing is not None and self.affine is not None:
            raise InputError("spacing and affine were both given; give one of them")

    @classmethod
    def from_json(cls, path: str | Path, **changes: object) -> Self:
        """The request that a config.json describes, with ``changes`` to its fields.

        Raises:
            InputError: the file is not a config.json, an input was given in memory, an input file
                is missing or has changed, or the preset is not the one of that run.
        """
        from inrreg.app.saved_request import read_request

        values: dict[str, Any] = {**read_request(path, changes), **changes}
        return cls(**values)

    def chosen_preset(self) -> "Preset":
        """The preset with ``settings``.

        Raises:
            InputError: an unknown preset, one without stages, or a setting that it does not have.
        """
        from inrreg.presets import Preset, with_settings
        from inrreg.presets import preset as named_preset

        chosen = named_preset(self.preset) if isinstance(self.preset, str) else self.preset
        if not isinstance(chosen, Preset):
            raise InputError(
                f"preset is a {type(self.preset).__name__}; give the name of one, or an"
                " inrreg.Preset"
            )
        if not chosen.stages:
            raise InputError(
                f"the preset {chosen.name!r} has no stages; give it at least one, for instance"
                " stages=(InitialTranslation(),)"
            )
        return with_settings(chosen, self.settings or {})

    def torch_device(self) -> "torch.device":
        """The device, which exists.

        Raises:
            InputError: an unknown or unsupported device, or one that torch does not find.
        """
        import torch

        name = self.device
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

    def array_grid(self, shape: tuple[int, ...]) -> "Grid | None":
        """The grid of an array of that shape; None where neither spacing nor affine is given.

        Raises:
            FrameError: a spacing or an affine that does not fit the shape.
        """
        import numpy as np

        from inrreg.core.grid import Grid

        if self.affine is not None:
            return Grid(shape, np.asarray(self.affine, dtype=np.float64))
        if self.spacing is None:
            return None
        spacing = np.asarray(self.spacing, dtype=np.float64)
        if spacing.size not in (1, len(shape)) or not bool((spacing > 0).all()):
            raise FrameError(
                f"the spacing {self.spacing} does not fit an array of the shape {shape}; give one"
                " positive number of mm, or one for each axis"
            )
        return Grid.from_spacing(shape, spacing)
