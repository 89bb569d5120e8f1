"""Measures what docs/choosing.md says about penalties, windows, spacings and transforms; prints its
tables. Run: python docs/figures/choosing.py

One generated chest of 4 mm voxels whose lungs move by 5 mm and slide along still ribs, registered
as a whole, without a mask, so that the sliding counts. Takes some minutes.
"""

import time
from dataclasses import replace

import numpy as np
import torch

from inrreg.core.image_pair import ImagePair
from inrreg.evaluation import jacobian_determinant, landmark_error
from inrreg.objective.features import Window
from inrreg.objective.step import Term
from inrreg.optimisation import Adam
from inrreg.penalties import Bending, Diffusion, Folding, LogJacobian, TotalVariation
from inrreg.phantoms import PhantomPair, lung_pair
from inrreg.similarity import LNCC, MSE, NCC, NMI
from inrreg.stages.gradient_registration import Registration, Scale
from inrreg.transforms import FreeForm, NeuralModel

QUIET, NOISY = 20.0, 100.0
BASE = Registration(
    FreeForm(32.0),
    (LNCC(9.0),),
    (Bending(10.0), Folding(1.0)),
    Adam(1.0),
    (Scale(8, 80), Scale(4, 80, 12.0)),
    name="base",
)


def smoothed_by(*penalties: Term) -> Registration:
    return replace(BASE, penalties=(*penalties, Folding(1.0)))


def scales(spacing_mm: float) -> tuple[Scale, ...]:
    return Scale(8, 80), Scale(4, 80, spacing_mm)


PENALTIES = {
    "none": replace(BASE, penalties=()),
    "Folding(1)": smoothed_by(),
    **{f"Diffusion({w:g})": smoothed_by(Diffusion(w)) for w in (0.1, 0.3, 1)},
    **{f"Bending({w:g})": smoothed_by(Bending(w)) for w in (1, 10, 100)},
    **{f"TotalVariation({w:g})": smoothed_by(TotalVariation(w)) for w in (0.05, 0.15, 0.5)},
    **{f"LogJacobian({w:g})": smoothed_by(LogJacobian(w)) for w in (0.01, 0.1)},
    "TotalVariation(0.15), Bending(1)": smoothed_by(TotalVariation(0.15), Bending(1)),
}
SIMILARITIES = {
    "MSE(weight=30)": MSE(30),
    "NCC()": NCC(),
    "NMI()": NMI(),
    **{f"LNCC({w:g})": LNCC(w) for w in (9, 20, 36)},
}
TABLES = {
    "penalty": PENALTIES,
    "similarity": {
        name: replace(BASE, similarities=(term,)) for name, term in SIMILARITIES.items()
    },
    "last knots": {f"{h:g} mm": replace(BASE, scales=scales(h)) for h in (32, 20, 12, 8)},
    "transform": {
        "FreeForm(32), then 12 mm": BASE,
        "NeuralModel(lattice_mm=12)": replace(
            BASE,
            transform=NeuralModel(lattice_mm=12.0),
            optimiser=Adam(1e-3),
            scales=(Scale(8, 80), Scale(4, 80)),
        ),
        "NeuralModel(), 8 mm level only": replace(
            BASE, transform=NeuralModel(), optimiser=Adam(1e-3), scales=(Scale(8, 80),)
        ),
    },
}


def chest(noise_hu: float) -> PhantomPair:
    return lung_pair(shape=(72, 60, 72), spacing=4.0, motion_mm=5.0, seed=1, noise_hu=noise_hu)


def measured(registration: Registration, phantom: PhantomPair) -> dict[str, float]:
    """Landmark errors in mm, volume statistics and the CPU seconds of the fit."""
    pair = ImagePair(phantom.fixed, phantom.moving).prepared(Window(-1000, 200))
    start = time.process_time()
    transform = registration.run(pair).transform
    seconds = time.process_time() - start
    error = landmark_error(transform, phantom.fixed_landmarks, phantom.moving_landmarks).to_json()[
        "groups"
    ]
    determinant = jacobian_determinant(transform, phantom.fixed.grid)[
        phantom.fixed_mask.data[0] > 0
    ].numpy()
    spread = float(np.log(determinant[determinant > 0]).std())
    return {
        "lung": error["lung"]["mean_mm"],
        "rib": error["rib"]["mean_mm"],
        "folded": 100 * float((determinant <= 0).mean()),
        "spread": spread,
        "seconds": seconds,
    }


def main() -> None:
    torch.set_num_threads(1)
    quiet, noisy = chest(QUIET), chest(NOISY)
    for title, registrations in TABLES.items():
        print(
            f"\n| {title} | lungs, mm | lungs, noisy, mm | ribs, mm | folded, % | sd log J | CPU s"
            " |\n|---|---|---|---|---|---|---|"
        )
        for name, registration in registrations.items():
            at, worse = measured(registration, quiet), measured(registration, noisy)
            print(
                f"| `{name}` | {at['lung']:.2f} | {worse['lung']:.2f} | {at['rib']:.2f} |"
                f" {at['folded']:.2f} | {at['spread']:.2f} | {at['seconds']:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
