"""What a penalty on the Jacobian costs each field: time of a step (forward and backward) over that
of a step on u alone at the same points.

    python -m experiments.benchmarks.jacobian_cost [--points 10000] [--width 128] [--repeats 9]
    [--threads 1] [--device cpu] [-o DIR]

Ways to get the Jacobian: *backward twice* (a differentiated backward pass for each output),
*forward mode* (torch's, a pass for each coordinate), *tangents* (carried through the layers with
the values), each at all points; *tangents at a fifth*, the values at all points and the Jacobian at
a fifth as many, drawn apart as ``penalty_sampler`` draws them; *500 points* beside them, as NePhi
does; and *rendered*: the field asked at the knots of a 3-D lattice of as many points, u and its
Jacobian read off the spline at eight times as many voxels, against u alone read there. Medians,
interleaved so that what else the machine does hits all alike. ``rendered`` includes a determinant,
as ``Folding`` takes it.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from experiments.tables import Table, write_summary
from inrreg.core.grid import Cube, Grid
from inrreg.fields import FIELDS
from inrreg.fields.tangents import forward_mode, reverse_mode, value_and_jacobian
from inrreg.ops.small_matrices import determinant
from inrreg.transforms import Neural, Render

OPTIONS = {"hashgrid": {"width": 64}}
LIMIT = 2.0

Step = Callable[[], Tensor]


def field(name: str, width: int, device: torch.device) -> nn.Module:
    """The field of that name with an output that is not zero."""
    generator = torch.Generator().manual_seed(0)
    network = FIELDS[name](
        ndim=3, outputs=3, generator=generator, **OPTIONS.get(name, {"width": width})
    )
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.abs().max() < 1e-3:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.to(device)


def loss(values: Tensor, slopes: Tensor) -> Tensor:
    """Some loss on both."""
    return values.square().mean() + determinant(slopes).square().mean()


def steps(network: nn.Module, count: int, device: torch.device) -> dict[str, Step]:
    """A loss for each way, to be differentiated by the weights."""
    generator = torch.Generator().manual_seed(1)
    points, fifth, few = (
        2 * torch.rand(n, 3, generator=generator).to(device) - 1
        for n in (count, count // 5, min(count, 500))
    )

    def beside(part: Tensor) -> Step:
        return lambda: (
            network(points).square().mean()
            + determinant(value_and_jacobian(network, part)[1]).square().mean()
        )

    return {
        "u alone": lambda: network(points).square().mean(),
        "backward twice": lambda: loss(*reverse_mode(network, points)),
        "forward mode": lambda: loss(*forward_mode(network, points)),
        "tangents": lambda: loss(*value_and_jacobian(network, points)),
        "tangents at a fifth": beside(fifth),
        "500 points": beside(few),
        **rendered(network, count),
    }


def rendered(network: nn.Module, count: int) -> dict[str, Step]:
    """The same through a lattice of about ``count`` knots; voxels half as far apart, the Jacobian
    at every second of them, as ``penalty_sampler=WholeGrid`` asks.
    """
    side = round(count ** (1 / 3)) - 3
    voxels = Grid.from_spacing([2 * side] * 3, 1.0)
    coarse = voxels.resampled(2.0)
    render = Render.over(Neural(network, Cube.around(voxels), 3.0), voxels, 2.0)

    def both() -> Tensor:
        materialised = render.materialised()
        return (
            materialised.displacement_on(voxels).square().mean()
            + determinant(materialised.jacobian_on(coarse)).square().mean()
        )

    return {
        "rendered, u alone": lambda: render.displacement_on(voxels).square().mean(),
        "rendered": both,
    }


def seconds(ways: dict[str, Step], network: nn.Module, repeats: int) -> dict[str, float]:
    """Median seconds of a step of each way; the first round warms up."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, step in ways.items():
            network.zero_grad()
            _wait()
            started = time.perf_counter()
            step().backward()
            _wait()
            taken[name].append(time.perf_counter() - started)
    return {name: median(times[1:]) for name, times in taken.items()}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratios(taken: dict[str, float]) -> dict[str, float]:
    """Each way over the step on u alone that it stands beside."""
    base = {
        name: "rendered, u alone" if name.startswith("rendered") else "u alone" for name in taken
    }
    return {name: taken[name] / taken[base[name]] for name in taken if name not in base.values()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = None if arguments.output is None else Table(arguments.output, ("field",), resume=False)
    rows = {}
    for name in FIELDS:
        network = field(name, arguments.width, torch.device(arguments.device))
        taken = seconds(
            steps(network, arguments.points, torch.device(arguments.device)),
            network,
            arguments.repeats,
        )
        rows[name] = ratios(taken)
        if table is not None:
            table.add(
                {
                    "field": name,
                    "points": arguments.points,
                    "threads": arguments.threads,
                    "u_alone_ms": 1e3 * taken["u alone"],
                    **rows[name],
                }
            )
        if len(rows) == 1:
            print(f"{'field':12}{'u alone, ms':>13}" + "".join(f"{way:>23}" for way in rows[name]))
        print(
            f"{name:12}{1e3 * taken['u alone']:13.1f}"
            + "".join(f"{value:23.2f}" for value in rows[name].values()),
            flush=True,
        )
    if arguments.output is not None:
        ways = ("tangents", "tangents at a fifth", "500 points", "rendered")
        entries = [(f"{name}: {way}", rows[name][way]) for name in rows for way in ways]
        write_summary(
            arguments.output,
            [
                {
                    "measure": measure,
                    "value": value,
                    "target": f"<= {LIMIT:g}",
                    "met": value <= LIMIT,
                }
                for measure, value in entries
            ],
        )


if __name__ == "__main__":
    main()
