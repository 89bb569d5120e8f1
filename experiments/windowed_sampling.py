"""How should a field meet a windowed measure: rendered on a lattice, or at random patches?

    python -m experiments.windowed_sampling [--quick] [--resume] -o DIR

The same cost (local correlation, total variation, bending, folding) and levels for a free-form
deformation and a SIREN, each seen on the whole grid (the SIREN rendered on the lattice) and at
random patches (the SIREN asked at every site). The cases are the development set. ``--quick`` takes
one liver pair.
"""

import time
from dataclasses import dataclass, replace
from typing import cast

import torch

from experiments.cases import LIVER, LUNG, Case
from experiments.tables import Table, study_parser, write_summary
from inrreg.app.register import run_stages
from inrreg.objective.features import RobustWindow
from inrreg.objective.samplers import Patches
from inrreg.presets import preset
from inrreg.stages.gradient_registration import Registration, Scale
from inrreg.stages.initial_translation import InitialTranslation
from inrreg.stages.mask_alignment import MaskAlignment
from inrreg.transforms import NeuralModel

PATCHES = Patches(count=200, size=7)


@dataclass(frozen=True)
class Arm:
    """One way to run the same cost."""

    name: str
    registration: Registration


def arms() -> list[Arm]:
    """Free-form and SIREN, grid and patches."""
    base, rendered = (cast(Registration, preset(name).stages[-1]) for name in ("default", "neural"))
    field = replace(cast(NeuralModel, rendered.transform), lattice_mm=None)
    asked = replace(
        rendered,
        transform=field,
        scales=tuple(Scale(h, 80) for h in (8, 4, 2)),
        sampler=PATCHES,
        penalty_sampler=Patches(100, 3),
    )
    return [
        Arm("free-form, grid", base),
        Arm("free-form, patches", replace(base, sampler=PATCHES)),
        Arm("SIREN rendered, grid", rendered),
        Arm("SIREN rendered, patches", replace(rendered, sampler=PATCHES)),
        Arm("SIREN asked at every site, patches", asked),
    ]


def main() -> None:
    parser = study_parser(__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = Table(arguments.output, ("case", "arm"), arguments.resume)
    names = [LIVER[0]] if arguments.quick else [LIVER[0], LIVER[2], *LUNG]
    for name in names:
        case = Case(name)
        for arm in arms():
            if table.has(case=name, arm=arm.name):
                continue
            pair = case.pair().prepared(RobustWindow())
            started = time.perf_counter()
            results = run_stages(
                (InitialTranslation(), MaskAlignment(), arm.registration), pair, None
            )
            seconds, steps = time.perf_counter() - started, len(results[-1].history)
            row = {
                "case": name,
                "arm": arm.name,
                "seconds": seconds,
                "steps": steps,
                "ms_per_step": 1e3 * results[-1].seconds / steps,
                **case.score(results[-1].transform),
            }
            table.tell(row)
    write_summary(
        arguments.output,
        [
            {
                "measure": f"liver mean error, {arm.name}",
                "value": table.mean("liver_mean_mm", arm=arm.name),
                "unit": "mm",
                "target": None,
                "met": None,
            }
            for arm in arms()
        ],
    )


if __name__ == "__main__":
    main()
