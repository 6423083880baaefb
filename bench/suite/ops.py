"""Operations one by one: the formulas of the reference, forward and backward, and what stands around the kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.cases import CASES, model
from dpa1_fast import Engine
from dpa1_fast.kernels import reference as ref
from dpa1_fast.structures.batch import collate, neighborhood
from dpa1_fast.structures.neighbors import neighbor_edges
from dpa1_fast.structures.structure import from_ase
from dpa1_fast.structures.verlet import Verlet

from .benchmark import Benchmark, Wrong, register, same

CENTERS, SLOTS = 64, 96


@cache
def numbers() -> dict[str, Tensor]:
    """Random neighbourhoods of 64 centres with 96 neighbours, and activations of the model's widths."""
    random = torch.Generator().manual_seed(0)
    c = model().config
    normal = partial(torch.randn, generator=random, dtype=torch.float64)
    d = normal(CENTERS, SLOTS, 3)
    d = (
        d
        / d.norm(dim=-1, keepdim=True)
        * (0.8 + 5.0 * torch.rand(CENTERS, SLOTS, 1, generator=random, dtype=torch.float64))
    )
    return {
        "d": d,
        "s": normal(CENTERS, SLOTS, 1 + 2 * c.tebd_dim),
        "x": normal(CENTERS, c.neuron[-1], 4),
        "g": normal(CENTERS, SLOTS, c.neuron[-1]),
        "descriptor": normal(CENTERS, c.neuron[-1] * c.axis_neuron + c.tebd_dim) / 10,
    }


def formulas() -> dict[str, tuple[Sequence[Tensor], Callable[..., Tensor]]]:
    """Name → inputs to differentiate by, and the formula."""
    n, w = numbers(), model().weights()
    c = w.config
    act = ref.activation(c.activation_function)
    plain = torch.zeros(1, 1, 4).double(), torch.ones(1, 1, 4).double()
    row = ref.environment_matrix(n["d"], *plain, c.rcut_smth, c.rcut, c.env_protection)[0]
    r_hat, mask = ref.unit_rows(row), torch.ones(CENTERS, SLOTS, dtype=torch.bool)
    return {
        "environment matrix": (
            [n["d"]],
            lambda d: ref.environment_matrix(d, *plain, c.rcut_smth, c.rcut, c.env_protection)[0],
        ),
        "embedding net": ([n["s"]], lambda s: ref.network(s, w.embedding, act)),
        "gated attention": (
            [n["g"]],
            lambda g: ref.gated_attention_layer(
                g, r_hat, mask, None, None, w.attention[0], c.attention_scale, c.normalize, c.ln_eps
            ),
        ),
        "moments": ([n["g"], row], lambda g, row: ref.moments(g, row, None)),
        "contraction": ([n["x"]], lambda x: ref.contraction(x, c.nsel, c.axis_neuron) * c.nsel),
        "energy net": ([n["descriptor"]], lambda d: ref.energy_network(d, w.fitting, act)),
    }


def formula(name: str, backward: bool) -> Benchmark:
    """A formula of ``kernels/reference.py``; the gradient is held against symmetric differences."""
    inputs, f = formulas()[name]
    leaves = [x.clone().requires_grad_(backward) for x in inputs]
    weight = torch.randn(f(*inputs).shape, generator=torch.Generator().manual_seed(99), dtype=torch.float64)

    def run() -> Sequence[Tensor]:
        out = f(*leaves)
        return torch.autograd.grad(out, leaves, weight) if backward else [out]

    def check() -> None:
        if not backward:
            if not all(bool(x.isfinite().all()) for x in run()):
                raise Wrong(f"{name} is not finite: no speed")
            return
        step = 1e-6
        for k, (x, gradient) in enumerate(zip(inputs, run(), strict=True)):
            along = torch.randn(x.shape, generator=torch.Generator().manual_seed(k), dtype=x.dtype)
            moved = [[y + sign * step * along if j == k else y for j, y in enumerate(inputs)] for sign in (1.0, -1.0)]
            plus, minus = (float((f(*y) * weight).sum()) for y in moved)
            same(f"gradients of the {name}", [float((gradient * along).sum())], [(plus - minus) / (2 * step)], 1e-5)

    return Benchmark(run, check, atoms=CENTERS, neighbors=CENTERS * SLOTS, facts={"precision": "float64"})


def around(name: str) -> Benchmark:
    """What stands before and after the kernels, on 1,536 atoms of water."""
    config = model().config
    (atoms,) = CASES["water1536"].build()
    structure = from_ase(config, atoms, "water")
    edges = neighbor_edges(structure, config.rcut)
    part = neighborhood(config, structure)
    verlet = Verlet(config)
    verlet.select([structure])
    positions, cells = structure.positions.copy(), structure.cell[None].copy()
    runs: dict[str, Callable[[], Any]] = {
        "structure checked": lambda: from_ase(config, atoms, "water"),
        "neighbour search": lambda: neighbor_edges(structure, config.rcut),
        "neighbours of a step": lambda: verlet.batch(positions, cells),
        "batch of 8 put together": lambda: collate(config, [part] * 8),
    }

    def check() -> None:
        length = np.linalg.norm(edges.vector, axis=1)
        fresh, _ = verlet.batch(positions, cells)
        same("distances", np.sort(np.linalg.norm(fresh.vector.numpy(), axis=1)), np.sort(length), 1e-12)
        if not (length < config.rcut).all():
            raise Wrong("neighbours beyond the cut-off: no speed")

    many = 8 if name.startswith("batch") else 1
    return Benchmark(runs[name], check, atoms=many * len(atoms), neighbors=many * len(edges.center))


def native(layers: int, precision: str) -> Benchmark:
    """The compiled kernels by themselves: a batch in memory to energies and gradients."""
    from .evaluations import check as against_reference

    name = {0: "no attention", 2: "2 layers"}[layers]
    engine = Engine(model(attn_layer=layers) if layers != 2 else model(), device="cpu", precision=precision, threads=1)
    batch = engine.batch(CASES["water192"].build())
    return Benchmark(
        lambda: engine.run(batch), lambda: against_reference(engine, name, 1), batch.n_atoms, int(batch.counts.sum()),
        {"precision": precision, "threads": 1},
    )  # fmt: skip


def control() -> Benchmark:
    """Products of matrices by numpy, and sorting: what they take depends on the machine alone."""
    random = np.random.default_rng(0)
    a, b = random.normal(size=(256, 256)), random.normal(size=1 << 16)
    return Benchmark(lambda: (a @ a, np.sort(b)), lambda: None)


def _register() -> None:
    for name in ("environment matrix", "embedding net", "gated attention", "moments", "contraction", "energy net"):
        for backward in (False, True):
            register(f"op/{name}, {'and back' if backward else 'forward'}", partial(formula, name, backward))
    for name in ("structure checked", "neighbour search", "neighbours of a step", "batch of 8 put together"):
        register(f"op/{name}", partial(around, name))
    for layers in (0, 2):
        for precision in ("float64", "float32"):
            register(f"op/compiled kernels, {layers} layers, {precision}", partial(native, layers, precision))
    register("control/numpy", control)


_register()
