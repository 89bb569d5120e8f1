"""One registration by Demeter 0.2.11, for ``experiments.shooting_2d`` to set beside ours.

It is run by the Python of Demeter's own environment and knows nothing of this package.

    PYTHON experiments/demeter_baseline.py IN.npz OUT.npz

In: ``fixed``, ``moving``, ``lesion`` (rows x columns, 1 = no counterpart), ``method``, ``sigma``
(pixels), ``cost`` (lambda), ``rho``, ``steps``, ``iterations`` (outer ones of its L-BFGS, of up to
20 inner ones each). Out: ``displacement`` (rows x columns x 2, row first, pixels; from the fixed
grid into the moving image), ``image``, ``seconds``, ``evaluations``.
"""

import sys
import time
from typing import Any

import numpy as np
import torch

LEAST_MASK = 1e-6
"""The slope of the square root, which Demeter takes of its masks, is infinite at 0."""


def integrator(entry: Any, kernel: torch.nn.Module) -> Any:
    """Demeter's system for each method; its masks are 1 where there is motion alone."""
    from demeter.metamorphosis import classic, constrained

    if entry["method"] == "weighted":
        free = 1 - (1 - float(entry["rho"])) * torch.as_tensor(entry["lesion"])
        masks = free.expand(int(entry["steps"]), 1, *free.shape).clamp(min=LEAST_MASK).clone()
        return constrained.ConstrainedMetamorphosis_integrator(
            residual_mask=masks, kernelOperator=kernel, dx_convention="pixel"
        )
    rho = float(entry["rho"]) if entry["method"] == "metamorphosis" else 1.0
    return classic.Metamorphosis_integrator(
        method="semiLagrangian",
        rho=rho,
        n_step=int(entry["steps"]),
        kernelOperator=kernel,
        dx_convention="pixel",
    )


def main() -> None:
    from demeter.metamorphosis import classic, constrained, data_cost
    from demeter.utils import reproducing_kernels

    entry = np.load(sys.argv[1])
    fixed, moving, counted = (
        torch.as_tensor(a)[None, None]
        for a in (entry["fixed"], entry["moving"], 1 - entry["lesion"])
    )
    kernel = reproducing_kernels.GaussianRKHS((float(entry["sigma"]),) * 2)
    system = integrator(entry, kernel)
    shooting = (
        constrained.ConstrainedMetamorphosis_Shooting
        if entry["method"] == "weighted"
        else classic.Metamorphosis_Shooting
    )
    # its mask is 1 where the sum is taken
    difference = (
        data_cost.Cfm(fixed, counted) if entry["method"] == "masked LDDMM" else data_cost.Ssd(fixed)
    )
    extra = {"hamiltonian_integration": True} if entry["method"] == "metamorphosis" else {}
    fit = shooting(
        moving,
        fixed,
        system,
        cost_cst=float(entry["cost"]),
        data_term=difference,
        optimizer_method="LBFGS_torch",
        **extra,
    )
    calls, cost = [0], fit.cost

    def counting(momentum: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return cost(momentum)

    fit.cost = counting
    started = time.perf_counter()
    fit.forward(
        torch.zeros_like(moving).requires_grad_(), n_iter=int(entry["iterations"]), grad_coef=1.0
    )
    seconds = time.perf_counter() - started
    where = fit.mp.get_deformator()[0].detach().flip(-1)  # its last axis is (column, row)
    still = torch.stack(
        torch.meshgrid(
            *[torch.arange(n, dtype=where.dtype) for n in where.shape[:2]], indexing="ij"
        ),
        -1,
    )
    np.savez(
        sys.argv[2],
        displacement=(where - still).numpy(),
        image=fit.mp.image.detach()[0, 0].numpy(),
        seconds=seconds,
        evaluations=calls[0],
    )


if __name__ == "__main__":
    main()
