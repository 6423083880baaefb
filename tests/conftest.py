"""Shared by all tests: poisoned memory, seeds, and where cases live."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ["TRITON_INTERPRET"] = "1"  # before anything loads triton: its kernels are proved in the interpreter
import torch
from interpreter_speed import patch_once_a_launch
from kernel_cases import random_model

from dpa1_fast import DPA1, DPA1Config
from dpa1_fast.config import FittingConfig
from dpa1_fast.errors import DPA1Warning

patch_once_a_launch()

DATA = Path(__file__).parent / "data"
SHARED = Path(__file__).parents[2] / "shared" / "cases"


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long the tests in fuzz/ run."""
    parser.addoption("--fuzz-examples", type=int, default=60, help="random cases for each test in tests/fuzz")
    parser.addoption("--fuzz-first", type=int, default=0, help="the first seed, so that a long run goes in pieces")


@pytest.fixture
def fuzz_examples(request: pytest.FixtureRequest) -> int:
    """How many random cases a test in fuzz/ tries."""
    count: int = request.config.getoption("--fuzz-examples")
    return count


@pytest.fixture
def fuzz_first(request: pytest.FixtureRequest) -> int:
    """The seed of the first of them."""
    first: int = request.config.getoption("--fuzz-first")
    return first


@pytest.fixture(autouse=True)
def _poisoned_memory_and_seeds() -> Iterator[None]:
    """Fresh memory is NaN, so that an output nobody wrote fails; one thread, one seed."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.set_num_threads(1)
    torch.manual_seed(7)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def rows_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in Triton's interpreter, and those of the energy net, that round every row alike, as a tensor core does.

    numpy's and torch's are those of their BLAS, which on some processors rounds a row by its place among the others.
    """
    from triton.runtime import interpreter

    from dpa1_fast.kernels.triton import energy

    def dot(self: Any, a: Any, b: Any, acc: Any, *_: Any) -> Any:
        product = np.einsum("ij,jk->ik", a.data.astype(acc.data.dtype), b.data.astype(acc.data.dtype))
        return interpreter.TensorHandle(product + acc.data, acc.dtype.scalar)

    def product(a: torch.Tensor, b: torch.Tensor, work: torch.dtype, **_: Any) -> torch.Tensor:
        return (a.to(work).unsqueeze(2) * b.to(work).contiguous()).sum(1)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", dot)
    monkeypatch.setattr(energy, "product", product)


@pytest.fixture
def quiet() -> Iterator[None]:
    """For models whose traits the engine warns of, where the warning is not what is tested."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DPA1Warning)
        yield


@dataclass(frozen=True)
class Case:
    """One structure with DeePMD-kit's results."""

    name: str
    arrays: dict[str, np.ndarray]

    def __getattr__(self, name: str) -> Any:
        return self.arrays.get(name)

    @property
    def box(self) -> np.ndarray | None:
        """The cell as ``DeepPot.eval`` takes it."""
        return None if len(self.arrays["cell"]) == 0 else self.arrays["cell"].reshape(1, 9)


def read_cases(path: Path) -> list[Case]:
    """The cases of an .npz whose keys are ``case.array``."""
    with np.load(path) as file:
        names = sorted({k.split(".")[0] for k in file.files})
        return [Case(n, {k.split(".")[1]: file[k] for k in file.files if k.startswith(f"{n}.")}) for n in names]


BASE = DPA1Config(
    type_map=("H", "C", "O"),
    rcut=4.0,
    rcut_smth=1.0,
    sel=(40,),
    neuron=(4, 8, 16),
    axis_neuron=4,
    tebd_dim=5,
    attn=12,
    attn_layer=2,
    fitting=FittingConfig(neuron=(16, 16)),
)

OPTIONS: dict[str, dict[str, Any]] = {
    "smooth": {},
    "hard": {"smooth_type_embedding": False},
    "strip": {"tebd_input_mode": "strip", "resnet_dt": True},
    "strip_onesided": {"tebd_input_mode": "strip", "type_one_side": True, "normalize": False, "temperature": 0.4},
    "no_attention": {"attn_layer": 0, "neuron": (5, 10, 25)},
    "excluded": {"exclude_types": ((0, 1),), "attn_dotr": False, "concat_output_tebd": False},
}


def make_model(**options: Any) -> DPA1:
    """A small model with random weights and statistics that are neither 0 nor 1."""
    return random_model(replace(BASE, **options))


@pytest.fixture(params=OPTIONS)
def model(request: pytest.FixtureRequest) -> DPA1:
    """A model for each way through the formulas."""
    return make_model(**OPTIONS[request.param])


def molecule(n: int = 9, seed: int = 0, box: float = 4.0, **cell: Any) -> Any:
    """Random H, C, O atoms no closer than 0.9 Å."""
    from ase import Atoms

    rng = np.random.default_rng(seed)
    points: list[np.ndarray] = []
    while len(points) < n:
        p = rng.uniform(0, box, 3)
        if all(np.linalg.norm(p - q) > 0.9 for q in points):
            points.append(p)
    return Atoms(rng.choice(["H", "C", "O"], n), positions=points, **cell)


def crystal(seed: int = 1, n: int = 5) -> Any:
    """A triclinic periodic structure smaller than the cut-off."""
    return molecule(n, seed, 3.6, cell=[[4.1, 0, 0], [1.0, 3.9, 0], [-0.7, 0.8, 4.3]], pbc=True)
