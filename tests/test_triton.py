"""The Triton kernels, in Triton's interpreter, against autograd of the reference formulas in float64."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from conftest import BASE, OPTIONS, SHARED, crystal, make_model, molecule, read_cases
from interpreter_memory import Launch, watch
from test_cpu_engine import FUNCTIONS, MORE

from bench import cases
from dpa1_fast import DPA1, DeepPot, Engine
from dpa1_fast.errors import BackendError
from dpa1_fast.kernels import dispatch
from dpa1_fast.kernels.prepare import bases
from dpa1_fast.kernels.triton.evaluator import TritonEvaluator
from dpa1_fast.kernels.triton.launch_configurations import Configurations, LaunchConfiguration, LayerConfigurations
from dpa1_fast.structures.batch import Batch, collate, neighborhood
from dpa1_fast.structures.structure import from_ase
from dpa1_fast.tuning import Tuner

pytestmark = pytest.mark.usefixtures("quiet")

TOLERANCE = {"float64": 1e-10, "float32": 2e-5}  # of the largest of its kind

ALL = OPTIONS | MORE
FLOAT32 = ("smooth", "strip_hard", "no_attention", "odd_widths")
"""In ``make test`` in float32 too; all others are in ``make test-all``."""


def structures(model: DPA1) -> list[Atoms]:
    """A molecule, a crystal smaller than the cut-off, and an atom alone."""
    out = [molecule(4), crystal(n=2), Atoms("C")]
    rng = np.random.default_rng(5)
    for atoms in out:
        f = model.config.fitting
        atoms.info["fparam"] = rng.normal(size=f.numb_fparam)
        atoms.arrays["aparam"] = rng.normal(size=(len(atoms), f.numb_aparam))
    return out


def batch_of(model: DPA1, atoms: list[Atoms]) -> Batch:
    return collate(model.config, [neighborhood(model.config, from_ase(model.config, a, "x")) for a in atoms])


def evaluator(model: DPA1, precision: str = "float64", **options: Any) -> TritonEvaluator:
    defaults = {"architecture": None, "chunk_bytes": 1 << 24}
    return TritonEvaluator(model.weights(), precision, torch.device("cpu"), **(defaults | options))


def assert_same(model: DPA1, batch: Batch, precision: str, **options: Any) -> None:
    judge = Engine(model, backend="reference").run(batch)
    found = evaluator(model, precision, **options)(batch)
    for name, a, b in zip(("energies", "dE/dd", "forces", "virials"), found, judge, strict=True):
        assert torch.isfinite(a).all(), name
        scale = max(float(b.abs().max()), 1e-3) if b.numel() else 1.0
        assert float((a - b).abs().max() if b.numel() else 0.0) < TOLERANCE[precision] * scale, name


def quick_ones(names: Iterable[str], *quick: str) -> list[Any]:
    """Parameters of a test, of which all but those named are slow."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        pytest.param(name, precision, marks=[] if precision == "float64" or name in FLOAT32 else [pytest.mark.slow])
        for name in ALL
        for precision in TOLERANCE
    ],
)
def test_every_option(name: str, precision: str) -> None:
    model = make_model(**ALL[name])
    assert_same(model, batch_of(model, structures(model)), precision)


@pytest.mark.parametrize(
    "name",
    quick_ones(
        ["smooth", "hard", "strip", "strip_hard", "one_sided_concat", "no_attention"], "strip", "hard", "no_attention"
    ),
)
def test_statistics_with_a_mean(name: str) -> None:
    model = make_model(**ALL[name])
    model.davg.uniform_(-0.1, 0.1)
    assert_same(model, batch_of(model, structures(model)), "float64")


@pytest.mark.parametrize("options", [{"attn_layer": 0}, {"tebd_input_mode": "strip", "attn_layer": 0}])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_activation_function(function: str, options: dict[str, Any]) -> None:
    fitting = replace(BASE.fitting, activation_function=function)
    model = make_model(activation_function=function, fitting=fitting, **options)
    assert_same(model, batch_of(model, structures(model)[:2]), "float64")


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(
    "name",
    quick_ones(["smooth", "hard", "strip", "strip_hard", "one_sided_concat", "odd_widths"], "smooth", "strip_hard"),
)
def test_first_layer_in_coordinates(name: str, layers: int, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bases, "WORTH", 2.0)
    model = make_model(**ALL[name] | {"attn_layer": layers})
    assert evaluator(model, precision).model.coordinates is not None
    assert_same(model, batch_of(model, structures(model)), precision)


def test_atoms_closer_than_series_were_sampled_take_the_net(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bases, "WORTH", 2.0)
    model = make_model()
    close = molecule(6)
    close.positions[1] = close.positions[0] + [0.0, 0.3, 0.0]
    assert_same(model, batch_of(model, [molecule(6), close]), "float64")


def test_models_of_many_types_take_the_full_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bases, "WORTH", 2.0)
    monkeypatch.setattr(bases, "MOST_TYPES_AROUND", 1)
    model = make_model()
    assert evaluator(model).model.coordinates is None
    assert_same(model, batch_of(model, structures(model)), "float64")


def one_atom(model: DPA1, neighbors: int) -> Batch:
    """One atom with so many neighbours in the cut-off, itself the only one that is evaluated."""
    rng = np.random.default_rng(neighbors)
    directions = rng.normal(size=(neighbors, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    around = directions * rng.uniform(0.9, 3.9, size=(neighbors, 1))
    atoms = Atoms(rng.choice(["H", "C", "O"], neighbors + 1), positions=np.concatenate([np.zeros((1, 3)), around]))
    batch = batch_of(model, [atoms])
    active = torch.zeros(len(atoms), dtype=torch.bool)
    active[0] = True
    assert int(batch.counts[0]) == neighbors
    return replace(batch, active=active)


SHAPES = [((25, 50, 100), 64), ((25, 50, 100), 128), ((32, 64, 128), 256), ((32, 64, 128), 128)]


@pytest.mark.parametrize(
    ("neuron", "attn", "neighbors"),
    [
        pytest.param(
            *shape, n, marks=[] if n in ((0, 1, 5, 17) if shape is SHAPES[0] else (17,)) else [pytest.mark.slow]
        )
        for shape in SHAPES
        for n in (0, 1, 5, 17, 120, 253)
    ],
)
def test_odd_shapes(neuron: tuple[int, ...], attn: int, neighbors: int) -> None:
    for smooth, precision in ((True, "float64"), (False, "float32")):
        model = make_model(neuron=neuron, attn=attn, sel=(260,), axis_neuron=16, smooth_type_embedding=smooth)
        assert_same(model, one_atom(model, neighbors), precision)


def alike(*numbers: int) -> Configurations:
    """All kernels launched with the same (rows, chunk, warps, stages, keys)."""
    layer = LayerConfigurations(*[LaunchConfiguration(*numbers)] * len(fields(LayerConfigurations)))
    return Configurations(layer, layer)


CONFIGURATIONS = {
    "small": alike(16, 16, 4, 1, 16),
    "many rows": alike(128, 32, 4, 2, 16),
    "many keys": alike(16, 64, 4, 1, 64),
    "whole": alike(64, 1024, 4, 1, 32),
}


@pytest.mark.parametrize("neighbors", [16, 33, pytest.param(70, marks=pytest.mark.slow)])
@pytest.mark.parametrize("coordinates", [False, True], ids=["channels", "coordinates"])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_any_launch_configuration_gives_the_same(
    name: str, coordinates: bool, neighbors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bases, "WORTH", 2.0 if coordinates else 0.0)
    model = make_model(sel=(260,), neuron=(10, 20, 40), attn=24)
    assert_same(model, one_atom(model, neighbors), "float64", configurations=CONFIGURATIONS[name])


@pytest.mark.usefixtures("rows_alike")
@pytest.mark.parametrize("name", quick_ones(OPTIONS, "smooth", "no_attention"))
def test_chunks_change_no_bit(name: str) -> None:
    model = make_model(**OPTIONS[name])
    batch = batch_of(model, [molecule(3, 1), Atoms("C"), molecule(2, 2)])
    expected = evaluator(model, "float32")(batch)
    for options in ({"chunk_bytes": 1}, {"chunk_bytes": 20_000}):
        for a, b in zip(evaluator(model, "float32", **options)(batch), expected, strict=True):
            assert torch.equal(a, b)


def guarded(model: DPA1, precision: str) -> TritonEvaluator:
    """An evaluator with a stretch of NaN, which nobody may touch, around everything that it allocates."""
    out = TritonEvaluator(model.weights(), precision, torch.device("cpu"), None, chunk_bytes=30_000)

    def new(*shape: int, operand: bool = False) -> torch.Tensor:
        dtype = out.model.operand if operand else out.model.work
        room = torch.full((int(np.prod(shape)) + 512,), float("nan"), dtype=dtype)
        return room[256:-256].view(shape)

    out.model.new = new  # type: ignore[method-assign]
    return out


@pytest.mark.parametrize(
    "name",
    quick_ones(["smooth", "hard", "strip", "strip_onesided", "no_attention", "odd_widths"], "smooth", "strip_onesided"),
)
def test_no_kernel_leaves_its_tensors(name: str) -> None:
    model = make_model(**ALL[name])
    model.davg.uniform_(-0.1, 0.1)
    run = guarded(model, "float32")
    with watch() as launches:
        run(batch_of(model, structures(model)))
    assert {launch.kernel for launch in launches} >= {"_embedding_fwd_kernel", "_energy_last_kernel", "_forces_kernel"}


def test_the_watch_itself_sees_a_kernel_that_leaves_its_tensors() -> None:
    with watch(), pytest.raises(IndexError, match="outside of its tensors"):
        Launch("kernel", {"x": torch.zeros(4)}).touch("read", np.array([torch.zeros(4).data_ptr() - 4]), 4)


def test_launches_and_bytes_of_the_production_model() -> None:
    """Two layers, 90 neighbours: at most 24 launches a chunk beside torch's products in the energy net, and 1.6 MB of
    device memory traffic an atom, which is half a microsecond of an H100's."""
    model = cases.model()
    batch = batch_of(model, [cases.water(4)])
    count = batch.counts
    few = torch.nonzero((count >= 88) & (count <= 92)).squeeze(-1)[:2]
    active = torch.zeros_like(batch.active)
    active[few] = True
    with watch() as launches:
        evaluator(model, "float32")(replace(batch, active=active))
    assert len(launches) <= 25  # a chunk, and one for the forces of the batch; more of this: test_graph.py
    # Weights are shared by all atoms and stay in the cache.
    kept = ("net", "factors", "matrices", "vectors", "next_factors", "next_biases", "weights", "last", "statistics")
    kept += ("empty", "order", "axis", "alive", "bias", "wide", "norm", "series", "ranges")
    chunk = [launch for launch in launches if launch.kernel != "_forces_kernel"]
    traffic = sum(launch.bytes(kept) for launch in chunk) / len(few)
    assert 200_000 < traffic < 1_600_000


@pytest.mark.parametrize("precision", ["tf32", "bfloat16", "float16"])
def test_low_precisions_run_and_are_what_they_say(precision: str) -> None:
    model = make_model(neuron=(8, 16, 32), attn=32)
    atoms = [molecule(8, 2)]
    double = Engine(model, backend="reference").evaluate(atoms)[0].forces
    low = Engine(model, device="cpu", backend="triton", precision=precision).evaluate(atoms)[0].forces
    error = np.sqrt(np.mean((low - double) ** 2) / np.mean(double**2))
    # The interpreter does tf32 products in float32.
    assert (0 if precision == "tf32" else 1e-5) < error < {"tf32": 2e-5, "bfloat16": 3e-2, "float16": 5e-3}[precision]


PUBLIC = sorted(SHARED.glob("public/**/cases.npz"))
QUICK_MODELS = ("P03", "P10")


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(p, id=p.parent.name, marks=[] if p.parent.name.startswith(QUICK_MODELS) else [pytest.mark.slow])
        for p in PUBLIC
    ],
)
def test_models_written_by_deepmd(path: Path) -> None:
    """Float32 against DeePMD-kit's own float64 results, small structures."""
    file, head = path.parent / "model.pth", None
    if not file.exists():
        file, head = path.parent.parent / "model.pt", path.parent.name
    potential = DeepPot(file, head=head, device="cpu", backend="triton", precision="float32")
    small = ("nopbc_mol", "pbc_tiny1", "pbc_tiny2", "nopbc_single", "pbc_isolated", "virtual_tail", "virtual_head")
    found = [c for c in read_cases(path) if c.name in small]
    assert found
    for case in found:
        energy, force, virial = potential.eval(
            case.coord[None], case.box, case.type, fparam=case.fparam, aparam=case.aparam
        )[:3]
        for a, b in ((energy[0], case.energy), (force[0], case.force), (virial[0], case.virial)):
            assert np.abs(a - b).max() < TOLERANCE["float32"] * max(np.abs(b).max(), 1.0), case.name


def test_an_engine_asked_for_triton_uses_it() -> None:
    engine = Engine(make_model(), device="cpu", backend="triton", precision="float32")
    assert engine.backend == "triton"
    assert isinstance(engine.evaluator, TritonEvaluator)


def test_requests_that_cannot_be_met_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match="tf32.*not available with backend 'cpu'.*float64, float32"):
        Engine(make_model(), device="cpu", backend="cpu", precision="tf32")
    monkeypatch.setattr(dispatch, "has_triton", lambda: False)
    with pytest.raises(BackendError, match="pip install triton"):
        Engine(make_model(), device="cpu", backend="triton")
    assert dispatch.choose("auto", "cuda") == "reference"


def in_a_fresh_process(script: str, **environment: str) -> str:
    """What a script prints whose environment says nothing of Triton's interpreter, unless it is said here."""
    without = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=without | environment, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


ON_CPU = """
import os, sys
import dpa1_fast
from dpa1_fast.errors import BackendError
def make():
    try:
        return dpa1_fast.load('almgcu-demo', device='cpu', backend='triton').backend
    except BackendError as error:
        return str(error)
"""


def test_the_interpreter_cannot_be_chosen_after_triton_was_loaded() -> None:
    late = "os.environ['TRITON_INTERPRET'] = '1'"
    said = in_a_fresh_process(f"{ON_CPU}\nimport triton\nprint(make())\n{late}\nprint(make())")
    assert said == f"{dispatch.TOO_LATE}\n" * 2


def test_the_interpreter_is_chosen_where_triton_was_not_loaded_yet_and_the_environment_is_left_alone() -> None:
    """An engine made on the CPU must not decide for the programs that this process starts."""
    report = "print(make(), os.environ.get('TRITON_INTERPRET'))"
    assert in_a_fresh_process(f"{ON_CPU}\n{report}", TRITON_INTERPRET="1") == "triton 1\n"


def test_what_counts_is_how_triton_was_loaded() -> None:
    removed = "import triton; del os.environ['TRITON_INTERPRET']"
    assert in_a_fresh_process(f"{ON_CPU}\n{removed}\nprint(make())", TRITON_INTERPRET="1") == "triton\n"


def test_kernels_that_are_interpreted_never_serve_a_gpu() -> None:
    """Nor is the environment told of the interpreter. Made for a card that is not here: it is refused before anything
    is asked of it."""
    script = f"""{ON_CPU}
import torch
from dpa1_fast.kernels import dispatch
print(make(), os.environ.get('TRITON_INTERPRET'))
try:
    weights = dpa1_fast.load('almgcu-demo', device='cpu')._model.weights()
    dispatch.triton_evaluator(weights, 'float32', torch.device('cuda:0'))
except ValueError as error:
    print(error)
"""
    assert in_a_fresh_process(script) == f"triton None\n{dispatch.INTERPRETED}\n"
    model = make_model()
    with pytest.raises(BackendError, match="unset it"):
        Tuner(model, torch.device("cuda:0"), dispatch.Card("H100", "sm_90", 1 << 30), lambda call: [])


def test_kernels_are_compiled_where_triton_was_loaded_without_its_interpreter() -> None:
    script = """
import triton
from triton.runtime.jit import JITFunction
from dpa1_fast.kernels import dispatch
import torch, os
os.environ['TRITON_INTERPRET'] = '1'
dispatch.load_triton(torch.device('cuda:0'))
from dpa1_fast.kernels.triton.ops import sums
print(type(sums._forces_kernel) is JITFunction, triton.knobs.runtime.interpret)
"""
    assert in_a_fresh_process(script) == "True False\n"
