"""Whatever is wrong with a structure is named, with the structure; nothing is ever silently NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import Atoms
from conftest import make_model, molecule

from dpa1_fast import Engine
from dpa1_fast.config import FittingConfig
from dpa1_fast.errors import BackendError, StructureError

CUBE = np.eye(3) * 5.0


def with_position(value: float) -> Atoms:
    atoms = molecule(4)
    atoms.positions[2, 1] = value
    return atoms


BAD: dict[str, tuple[Atoms, str]] = {
    "overlap": (Atoms("HO", [[1, 1, 1], [1, 1, 1]]), "atoms 0 and 1 overlap"),
    "overlap through the cell": (Atoms("HO", [[0, 0, 0], [5, 0, 0]], cell=CUBE, pbc=True), "overlap"),
    "nan position": (with_position(np.nan), "position of atom 2 is not finite"),
    "infinite position": (with_position(np.inf), "position of atom 2 is not finite"),
    "unknown element": (Atoms("CUPt"), "does not know the element Pt, U; it knows H C O"),
    "no cell": (Atoms("H", pbc=True), "singular cell: periodic axis a has length 0"),
    "flat cell": (Atoms("H", cell=[[3, 0, 0], [0, 3, 0], [3, 3, 0]], pbc=True), "linearly dependent"),
    "thin cell": (Atoms("H", cell=[[3, 0, 0], [0, 3, 0], [3, 3, 1e-3]], pbc=True), "singular cell"),
    "nan cell": (Atoms("H", cell=[[np.nan, 0, 0], [0, 3, 0], [0, 0, 3]], pbc=True), "cell of vector 0 is not finite"),
    "empty": (Atoms(), "has no atoms"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_structure_is_named_with_the_reason(name: str) -> None:
    atoms, reason = BAD[name]
    with pytest.raises(StructureError, match=reason) as error:
        Engine(make_model()).evaluate([molecule(3), atoms])
    assert error.value.name == "structure 1"
    assert "\n" not in str(error.value)


def test_all_others_are_still_done() -> None:
    engine, good = Engine(make_model()), molecule(5)
    mixed = [good, *(atoms for atoms, _ in BAD.values()), good]
    results = engine.evaluate(mixed, on_error="return")
    assert all(isinstance(r, StructureError) for r in results[1:-1])
    expected = engine.evaluate([good])[0]
    for result in (results[0], results[-1]):
        assert not isinstance(result, StructureError)
        assert result.energy == pytest.approx(expected.energy, abs=1e-12)


def test_an_overflow_is_an_error_and_takes_nothing_else_down() -> None:
    """Closer than any physics, but not on top of each other: float32 may overflow, NaN may not come out."""
    model = make_model(fitting=FittingConfig(neuron=(16, 16), activation_function="relu"))
    model.dstd.fill_(1e-30)
    good, close = molecule(5), Atoms("HO", [[0, 0, 0], [0.002, 0, 0]])
    results = Engine(model, precision="float32").evaluate([close, Atoms("H")], on_error="return")
    assert isinstance(results[0], StructureError)
    assert "overflow in float32" in str(results[0])
    assert not isinstance(results[1], StructureError)
    with pytest.raises(StructureError, match="structure 1: .*overflow"):
        Engine(model, precision="float32").evaluate([Atoms("H"), close])
    assert len(good) == 5


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({}, "needs 2 frame parameters"),
        ({"fparam": [1.0]}, r"fparam has shape \(1,\), expected \(2,\)"),
        ({"fparam": [1.0, np.nan]}, "fparam of entry 1 is not finite"),
        ({"fparam": [1.0, 2.0]}, "needs 1 atomic parameters"),
        ({"fparam": [1.0, 2.0], "aparam": [[1.0, 2.0]]}, "aparam has shape"),
        ({"fparam": [1.0, 2.0], "aparam": [[1.0], [2.0]]}, "aparam has 2 entries for 1 structures"),
    ],
)
def test_wrong_parameters(parameters: dict[str, Any], reason: str) -> None:
    model = make_model(fitting=FittingConfig(neuron=(16,), numb_fparam=2, numb_aparam=1))
    with pytest.raises(StructureError, match=reason):
        Engine(model).evaluate([molecule(3)], **parameters)


def test_parameters_that_the_model_does_not_have() -> None:
    with pytest.raises(StructureError, match="no frame parameters"):
        Engine(make_model()).evaluate([molecule(3)], fparam=[1.0])


def test_parameters_from_the_structure_itself() -> None:
    model = make_model(fitting=FittingConfig(neuron=(16,), numb_fparam=2, numb_aparam=1))
    engine, atoms = Engine(model), molecule(3)
    aparam = np.array([[0.1], [0.2], [0.3]])
    expected = engine.evaluate([atoms], fparam=[1.0, 2.0], aparam=[aparam])[0]
    atoms.info["fparam"], atoms.arrays["aparam"] = [1.0, 2.0], aparam
    assert engine.evaluate([atoms])[0].energy == expected.energy


def test_one_structure_instead_of_a_list() -> None:
    with pytest.raises(TypeError, match="give \\[atoms\\]"):
        Engine(make_model()).evaluate(molecule(3))
    with pytest.raises(TypeError, match="structure 0 is a str"):
        Engine(make_model()).evaluate(["water.xyz"])


@pytest.mark.parametrize(
    "options", [{"device": "cuda"}, {"device": "abacus"}, {"backend": "abacus"}, {"precision": "int8"}]
)
def test_an_explicit_request_never_falls_back(options: dict[str, str]) -> None:
    import torch

    if options.get("device") == "cuda" and torch.cuda.is_available():
        assert Engine(make_model(), device="cuda").device.type == "cuda"
        return
    with pytest.raises(BackendError, match=next(iter(options.values()))):
        Engine(make_model(), **options)
