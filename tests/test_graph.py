"""Launches a chunk, and replayed steps of molecular dynamics: counted and replayed by ``graph_emulator``, on a CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from conftest import BASE, OPTIONS, crystal, make_model, molecule
from graph_emulator import CaptureError, EmulatedCapture, Reads, device_work, poison, recording
from test_triton import alike, batch_of, evaluator

from dpa1_fast import DPA1, Engine
from dpa1_fast.errors import BackendError
from dpa1_fast.kernels.prepare import bases
from dpa1_fast.kernels.triton.chunks import STEP, by_neighbors, cut
from dpa1_fast.kernels.triton.cuda_graph import GraphedEvaluator
from dpa1_fast.structures.batch import Batch

pytestmark = pytest.mark.usefixtures("quiet")

LAUNCHES = 19
"""Of a chunk with two layers in all channels, beside the energy net: three forward and four backward a layer, the
embedding and its edges, two contractions, and the environment's gradient."""

# --- launches -----------------------------------------------------------------------------------------------------


def per_chunk(model: DPA1, batch: Batch) -> float:
    """What a chunk runs on the device: what more chunks run more."""
    found = []
    for chunk_bytes in (1, 1 << 30):
        kernels = evaluator(model, "float32", chunk_bytes=chunk_bytes)
        chunks = len(kernels.chunks(by_neighbors(batch).count))
        with recording(strict=False) as steps:
            kernels(batch)
        found.append((chunks, len(device_work(steps))))
    (many, with_many), (few, with_few) = found
    assert (few, many) == (1, -(-int(batch.active.sum()) // STEP))
    return (with_many - with_few) / (many - few)


@pytest.mark.parametrize("hidden", [(), (8,), pytest.param((8, 8, 8), marks=pytest.mark.slow)])
def test_two_layers_of_attention_and_an_energy_net_run_so_many_kernels_a_chunk_and_nothing_else(
    hidden: tuple[int, ...],
) -> None:
    """Eight, and for the energy net four a hidden layer: two forward, two backward."""
    fitting = replace(BASE.fitting, numb_fparam=2, numb_aparam=1, neuron=hidden)
    model = make_model(neuron=(4, 8, 16), fitting=fitting)
    batch = batch_of(model, parameters(model, [molecule(6), crystal(n=3)]))
    assert per_chunk(model, batch) == LAUNCHES + max(1, 4 * len(hidden))


def test_a_model_whose_vacuum_is_subtracted_runs_its_energy_net_forward_once_more() -> None:
    model = make_model(fitting=replace(BASE.fitting, atom_ener=(1.0, 2.0, 3.0)))
    assert model.config.fitting.subtract_vacuum
    layers = len(model.config.fitting.neuron)
    forward = 2 * layers + 1
    assert per_chunk(model, batch_of(model, [molecule(6)])) == LAUNCHES + 4 * layers + forward + 2


def test_a_batch_reads_from_the_device_once() -> None:
    """Counts, by which chunks are cut. All else is sorted, gathered and summed on the device."""
    model = make_model()
    kernels = evaluator(model, "float32", chunk_bytes=1)
    batch = batch_of(model, [molecule(6), crystal(n=3)])
    order = by_neighbors(batch)
    chunks = kernels.chunks(order.count.cpu())
    assert len(chunks) > 1
    with recording(launch=False):
        kernels.run(batch, order, chunks)


def test_chunks_are_full_aligned_and_complete() -> None:
    sizes = torch.sort(torch.randint(0, 50, (103,))).values
    chunks = cut(sizes, 10, 100, 5000)
    assert [c.start for c in chunks[1:]] == [c.stop for c in chunks[:-1]]
    assert (chunks[0].start, chunks[-1].stop) == (0, 103)
    for c in chunks:
        part = sizes[c.start : c.stop]
        assert c.start % STEP == 0
        rows = (part + 15) // 16 * 16
        assert (c.edges, c.most) == (int(rows.sum()), int(part.max()))
        assert 10 * c.edges + 100 * len(part) <= 5000
        more = sizes[c.start : c.stop + STEP]
        assert c.stop == 103 or 10 * int(((more + 15) // 16 * 16).sum()) + 100 * len(more) > 5000
    assert [len(cut(sizes, 1, 1, n)) for n in (0, 1 << 40)] == [-(-103 // STEP), 1]


# --- steps of molecular dynamics ----------------------------------------------------------------------------------


def parameters(model: DPA1, structures: list[Atoms]) -> list[Atoms]:
    rng = np.random.default_rng(3)
    f = model.config.fitting
    for atoms in structures:
        atoms.info["fparam"] = rng.normal(size=f.numb_fparam)
        atoms.arrays["aparam"] = rng.normal(size=(len(atoms), f.numb_aparam))
    return structures


def steps(model: DPA1, structures: list[Atoms], count: int) -> list[Batch]:
    """Batches of the same atoms, which move, and whose neighbours change."""
    rng = np.random.default_rng(17)
    structures = [a.copy() for a in parameters(model, structures)]
    out = []
    for _ in range(count):
        out.append(batch_of(model, structures))
        for atoms in structures:
            atoms.positions += rng.normal(scale=0.3, size=atoms.positions.shape)
            atoms.info["fparam"] = atoms.info["fparam"] + 0.1
    assert len({tuple(b.counts.tolist()) for b in out}) == count, "neighbour counts are to change"
    return out


def graphed(model: DPA1, **options: Any) -> tuple[GraphedEvaluator, EmulatedCapture]:
    capture = EmulatedCapture()
    return GraphedEvaluator(evaluator(model, **options), capture), capture


def assert_equal(found: Any, expected: Any) -> None:
    for name, a, b in zip(("energies", "dE/dd", "forces", "virials"), found, expected, strict=True):
        assert a.shape == b.shape, name
        assert torch.equal(a, b), name


REPLAYED = OPTIONS | {
    "parameters": {"fitting": replace(BASE.fitting, numb_fparam=2, numb_aparam=1), "attn_layer": 0},
    "vacuum": {"fitting": replace(BASE.fitting, atom_ener=(1.0, 2.0, 3.0)), "attn_layer": 0},
}


QUICK = ("smooth", "no_attention", "parameters", "vacuum")
WITH_MEAN = ("hard", "strip", "no_attention", "vacuum")
"""Those whose davg is not zero."""


@pytest.mark.usefixtures("rows_alike")
@pytest.mark.parametrize("name", [x if x in QUICK else pytest.param(x, marks=pytest.mark.slow) for x in REPLAYED])
def test_replayed_steps_are_those_of_the_evaluator_to_the_last_bit(name: str) -> None:
    """One capture, several chunks, several structures; buffers hold NaN before each step."""
    model = make_model(**REPLAYED[name])
    if name in WITH_MEAN:
        model.davg.uniform_(-0.1, 0.1)
    plain = evaluator(model)
    run, capture = graphed(model, chunk_bytes=1)
    for batch in steps(model, [molecule(4, 2, box=5.0), crystal(n=2), Atoms("C")], count=3):
        poison_buffers(run)
        assert_equal(run(batch), plain(batch))
    assert (run.captures, run.replays) == (1, 2)
    assert sum(step.name == "_energy_last_kernel" for step in capture.steps) >= 2  # chunks


def poison_buffers(run: GraphedEvaluator) -> None:
    """NaN, and indices of no atom, where the next step's numbers go, and in its results."""
    if run._captured is None:
        return
    for name in ("vector", "neighbor", "first_edge", "n_filled", "fparam", "aparam"):
        if (x := getattr(run._captured.batch, name)) is not None:
            poison(x)
    for x in run._captured.out:
        poison(x)


@pytest.mark.usefixtures("rows_alike")
@pytest.mark.parametrize("name", [pytest.param("smooth", marks=pytest.mark.slow), "no_attention"])
def test_blocks_of_rows_that_a_step_does_not_need_stay_idle(name: str) -> None:
    model = make_model(**OPTIONS[name])
    small = alike(16, 16, 4, 1, 16)
    plain = evaluator(model, configurations=small)
    run, _ = graphed(model, configurations=small)
    rng = np.random.default_rng(2)
    directions = rng.normal(size=(40, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    for near in (35, 35, 5):
        distance = np.where(np.arange(40) < near, rng.uniform(1.0, 3.9, 40), 50.0 + np.arange(40))
        atoms = Atoms("C" * 41, positions=np.concatenate([np.zeros((1, 3)), directions * distance[:, None]]))
        batch = replace(batch_of(model, [atoms]), active=torch.arange(41) < 1)
        assert int(batch.counts[0]) == near
        poison_buffers(run)
        assert_equal(run(batch), plain(batch))
    assert (run.captures, run.replays) == (1, 2)


@pytest.mark.usefixtures("rows_alike")
def test_a_step_with_atoms_too_close_for_series_is_not_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bases, "WORTH", 2.0)
    model = make_model(attn_layer=1)
    run, _ = graphed(model)
    batches = steps(model, [molecule(6)], 2)
    close = molecule(6)
    close.positions[1] = close.positions[0] + [0.0, 0.3, 0.0]
    odd = batch_of(model, parameters(model, [close]))
    for batch in (*batches, odd):
        assert_equal(run(batch), run.evaluator(batch))
    assert run.evaluator.model.coordinates is not None
    assert run.replays == 1


def test_a_step_reads_from_the_device_once() -> None:
    """Neighbour counts, whether the atoms are the same, and whether some are too close, in one transfer."""
    model = make_model(attn_layer=0, fitting=replace(BASE.fitting, numb_fparam=2, numb_aparam=1))
    run, _ = graphed(model)
    close = molecule(6)
    close.positions[1] = close.positions[0] + [0.0, 0.3, 0.0]
    first, *others = steps(model, [molecule(6)], 3)
    run(first)
    run(others[0])
    assert run._captured is not None
    run._captured = replace(run._captured, replay=lambda: None)
    run.evaluator.run = lambda *args, **options: None  # type: ignore[assignment,method-assign,return-value]
    for batch in (*others, batch_of(model, parameters(model, [close]))):
        with Reads() as reads:
            run(batch)
        assert len(reads.seen) == 1, reads.seen
    assert run.replays == 3


def test_other_atoms_are_captured_when_they_come_a_second_time() -> None:
    model = make_model(attn_layer=0)
    plain = evaluator(model)
    run, _ = graphed(model)
    one = batch_of(model, [molecule(4)])
    others = replace(one, types=(one.types + 1) % 3)
    idle = replace(one, active=torch.arange(4) > 0)
    apart = batch_of(model, [molecule(2), molecule(2, 2)])
    for captures, batch in enumerate((one, others, idle, apart), 1):
        for expected in (captures - 1, captures, captures):
            assert_equal(run(batch), plain(batch))
            assert run.captures == expected
    # Those that come in turns are not captured for one call each.
    for batch in (one, others, one, others):
        assert_equal(run(batch), plain(batch))
    assert run.captures == 4


@pytest.mark.usefixtures("rows_alike")
def test_more_edges_than_there_is_room_for_are_captured_anew() -> None:
    model = make_model(attn_layer=0, sel=(60,))
    plain = evaluator(model)
    run, _ = graphed(model)
    line = Atoms("C" * 8, positions=np.arange(8)[:, None] * [1.9, 0, 0])
    dense = line.copy()
    dense.positions *= 0.4
    for captures, atoms in ((0, line), (1, line), (2, dense), (2, line)):
        batch = batch_of(model, [atoms])
        assert_equal(run(batch), plain(batch))
        assert run.captures == captures


@pytest.mark.slow
@pytest.mark.usefixtures("rows_alike")
def test_more_edges_of_one_atom_than_it_has_room_for_are_captured_anew() -> None:
    model = make_model(attn_layer=0, sel=(60,))
    plain = evaluator(model)
    run, _ = graphed(model)
    line = Atoms("C" * 20, positions=np.arange(20)[:, None] * [1.2, 0, 0])
    dense = line.copy()
    dense.positions *= 0.6
    # Fewer edges in all, but some atoms with more than their room.
    ball = line.copy()
    ball.positions[:18] = 1.5 * np.stack(np.meshgrid(range(3), range(3), range(2)), -1).reshape(-1, 3)
    ball.positions[18:] = [[100.0 * k, 0, 50] for k in range(2)]
    thin, many, some = (batch_of(model, [a]) for a in (line, dense, ball))
    assert len(many.neighbor) > 1.15 * len(thin.neighbor) + 16
    for captures, batch in ((0, thin), (1, thin), (2, many), (2, thin), (3, some), (3, thin), (3, some)):
        assert_equal(run(batch), plain(batch))
        assert run.captures == captures


def test_batches_without_edges_or_active_atoms_can_be_captured() -> None:
    model = make_model()
    alone = batch_of(model, [Atoms("C"), Atoms("H")])
    still = batch_of(model, [molecule(3)])
    still = replace(still, active=torch.zeros_like(still.active))
    for batch in (alone, still):
        run, _ = graphed(model)
        for _ in range(2):
            assert_equal(run(batch), evaluator(model)(batch))
        assert run.replays == 1


def test_results_stay_when_the_next_step_comes() -> None:
    model = make_model(attn_layer=0)
    run, _ = graphed(model)
    first, second, third = steps(model, [molecule(5, box=6.0)], count=3)
    run(first)
    found = run(second)
    kept = [x.clone() for x in found]
    run(third)
    assert_equal(found, kept)


def test_an_engine_steps_through_dynamics_by_replaying() -> None:
    model = make_model()
    engine = Engine(model, device="cpu", backend="triton")
    judge = Engine(model, backend="reference")
    run, _ = graphed(model)
    engine.scheduler.run = run
    atoms = crystal(n=4)
    for _ in range(4):
        (found,), (expected,) = engine.evaluate([atoms]), judge.evaluate([atoms])
        np.testing.assert_allclose(found.forces, expected.forces, atol=1e-10 * np.abs(expected.forces).max())
        atoms.positions += 0.002 * found.forces
    assert (run.captures, run.replays) == (1, 3)


def test_fixed_shape_needs_a_gpu() -> None:
    for backend in ("triton", "reference", "auto"):
        with pytest.raises(BackendError, match="fixed_shape=True needs backend 'triton' on a GPU"):
            Engine(make_model(), device="cpu", backend=backend, fixed_shape=True)


# --- the emulator itself ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        lambda x: x.sum().item(), lambda x: float(x.sum()), lambda x: bool(x[0] > 0), lambda x: x.cpu(),
        lambda x: x.to("cpu"), lambda x: x.tolist(), lambda x: torch.nonzero(x), lambda x: x[x > 0],
        lambda x: torch.bincount(x.long()), lambda x: torch.unique(x), lambda x: x + torch.tensor([1.0]),
        lambda x: torch.repeat_interleave(x.long().abs()), lambda x: torch.segment_reduce(x, "sum", lengths=x.long()),
    ],
)  # fmt: skip
def test_the_emulator_refuses_what_a_capture_refuses(bad: Any) -> None:
    with pytest.raises(CaptureError), recording():
        bad(torch.ones(3))


def test_the_emulator_replays_on_the_same_memory_with_the_numbers_of_the_host() -> None:
    """What the host decided stays; what the device holds is read again."""
    x = torch.tensor([1.0, 2.0, 3.0])
    factor = [2.0]
    capture = EmulatedCapture()
    replay, out = capture(lambda: ((x * factor[0])[1:].sum(),))
    assert torch.isnan(out[0])
    factor[0] = 7.0
    x.copy_(torch.tensor([5.0, 6.0, 7.0]))
    replay()
    assert out[0] == 26.0
