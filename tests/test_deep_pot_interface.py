"""``DeepPot`` is DeePMD-kit 3.2.0's: its methods, keywords, shapes, dtypes and values, from a record of the real one.

``make peer-check`` renews the record, in ``data/deep_pot``.
"""

from __future__ import annotations

import inspect
import json
from typing import Any

import numpy as np
import pytest
import torch
from conftest import DATA

from dpa1_fast import DeepPot
from dpa1_fast.errors import StructureError

pytestmark = pytest.mark.usefixtures("quiet")

RECORD = json.loads((DATA / "deep_pot/record.json").read_text())
METHODS, MODELS = RECORD["methods"], RECORD["models"]
LEFT_OUT = {"output_def", "output_def_mag"}
"""Objects of DeePMD-kit's own classes, by which its backends name their outputs."""

BACKENDS_KEYWORDS = {
    "__init__": {"head", "no_jit", "nlist_backend"},
    "eval": {"charge_spin", "spin", "efield"},
    "eval_descriptor": {"charge_spin"},
    "eval_fitting_last_layer": {"charge_spin"},
    "eval_embedding": {"charge_spin"},
}
"""What DeePMD-kit's ``**kwargs`` are for; ours are named, so that any other is an error."""

COORDS, TYPES = [[0.0, 0, 0, 0, 0, 1.0]], [0, 1]


@pytest.fixture(scope="module")
def arrays() -> Any:
    with np.load(DATA / "deep_pot/record.npz") as file:
        return {name: file[name] for name in file.files}


# --- signatures -----------------------------------------------------------------------------------------------------


def test_every_method_and_property_is_there() -> None:
    ours = {name for name in dir(DeepPot) if not name.startswith("_")}
    assert set(METHODS) - {"__init__"} | set(RECORD["properties"]) == ours | LEFT_OUT
    for name in set(RECORD["properties"]) - LEFT_OUT:
        assert isinstance(inspect.getattr_static(DeepPot, name), property), name


@pytest.mark.parametrize("name", METHODS)
def test_every_keyword_is_there_in_its_place_with_its_default(name: str) -> None:
    ours = list(inspect.signature(getattr(DeepPot, name)).parameters.values())[1:]
    told = [[p.name, p.kind.name, None if p.default is p.empty else repr(p.default)] for p in ours]
    named = [p for p in METHODS[name] if not p[1].startswith("VAR_")]
    assert told[: len(named)] == named
    more = {p[0] for p in told[len(named) :]}
    assert all(p[1] == "KEYWORD_ONLY" for p in told[len(named) :])
    own = {"device", "backend", "precision", "threads", "fixed_shape"} if name == "__init__" else set()
    assert more == BACKENDS_KEYWORDS.get(name, set()) | own


def test_the_keywords_of_its_backend_are_ours_too() -> None:
    for name, parameters in RECORD["keywords of the PyTorch backend"].items():
        ours = inspect.signature(getattr(DeepPot, name)).parameters
        for key, kind, default in parameters:
            if not kind.startswith("VAR_") and key != "output_def":
                assert key in ours, key
                assert default is None or repr(ours[key].default) == default, key


# --- what it says and gives -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_what_it_says_of_a_model(name: str) -> None:
    potential, said = DeepPot(DATA / name, threads=1), MODELS[name]
    for what, value in said.items():
        if what in ("keys of serialize", "get_model_def_script"):
            continue
        ours = getattr(potential, what)
        assert (ours() if callable(ours) else ours) == value, what
    assert sorted(potential.serialize()) == said["keys of serialize"]
    script = potential.get_model_def_script()
    json.dumps(script)
    for key, value in said["get_model_def_script"].items():
        if isinstance(value, dict):
            for option, chosen in value.items():
                # One number may be given for sel; se_atten and se_atten_v2 are names of dpa1 with other defaults.
                expected = [chosen] if option == "sel" and isinstance(chosen, int) else chosen
                assert option == "type" or script[key][option] == expected, option
        else:
            assert script[key] == value, key
    v2 = said["get_model_def_script"].get("descriptor", {}).get("type") == "se_atten_v2"
    assert not v2 or script["descriptor"]["tebd_input_mode"] == "strip"


@pytest.mark.parametrize("name", MODELS)
def test_what_it_gives(name: str, arrays: dict[str, np.ndarray]) -> None:
    """Shapes, dtypes and values of every call; a virtual atom has no features here, there it has some of no meaning."""
    potential = DeepPot(DATA / name, threads=1)
    start = f"{name}.given."
    given = {key.removeprefix(start): x for key, x in arrays.items() if key.startswith(start)}
    real = given["atom_types"] >= 0
    calls = {key.split(".")[-2] for key in arrays if key.startswith(f"{name}.") and ".given." not in key}
    assert len(calls) == 7
    # The networks of this model are float32 there; embeddings are single precision wherever nothing else is said.
    tolerance = 3e-5 if "float32" in name else 1e-9
    for call in calls:
        method, more = call.split()[0], {"eval atomic": {"atomic": True}, "eval_embedding fp64": {"dtype": "fp64"}}
        arguments = {} if method == "eval_typeebd" else given | more.get(call, {})
        found = getattr(potential, method)(**arguments)
        found = found if isinstance(found, tuple) else (found,)
        expected = [arrays[f"{name}.{call}.{k}"] for k in range(len(found))]
        assert f"{name}.{call}.{len(found)}" not in arrays
        for k, (x, y) in enumerate(zip(found, expected, strict=True)):
            assert (x.shape, x.dtype) == (y.shape, y.dtype), (call, k)
            if method in ("eval_descriptor", "eval_fitting_last_layer", "eval_embedding") and x.ndim == 3:
                assert (x[:, ~real] == 0).all()
                x, y = x[:, real], y[:, real]
            single = 1e-6 if x.dtype == np.float32 else tolerance
            assert np.abs(x - y).max() < max(tolerance, single), (call, k)


def test_the_last_layer_makes_the_energy() -> None:
    """Of a model without vacuum energies: E_i is a linear function of the last hidden layer."""
    potential = DeepPot(DATA / "v2_parameters.pt", threads=1)
    more = {"aparam": [0.5], "fparam": [0.1, 0.2]}
    hidden = potential.eval_fitting_last_layer(COORDS, None, TYPES, **more)
    energy = potential.eval(COORDS, None, TYPES, atomic=True, **more)[3]
    model = potential.get_model()
    last = model.fitting.layers[-1]
    with torch.no_grad():
        found = (torch.from_numpy(hidden) @ last.weight + last.bias).squeeze(-1)
        found += (model.fitting.bias_atom_e + model.out_bias)[torch.tensor(TYPES)]
    assert np.abs(found.numpy() - energy[..., 0]).max() < 1e-10
    model.out_bias += 1.0
    assert np.array_equal(potential.eval(COORDS, None, TYPES, atomic=True, **more)[3], energy), "it is a copy"


# --- options --------------------------------------------------------------------------------------------------------


class OfDeepmd:
    """Stands for its AutoBatchSize."""

    def execute_all(self) -> None:
        """What it is known by."""


@pytest.mark.parametrize(
    "options",
    [
        {"auto_batch_size": False},
        {"auto_batch_size": 512},
        {"auto_batch_size": OfDeepmd()},
        {"neighbor_list": object()},
        {"no_jit": True},
        {"nlist_backend": "vesin"},
    ],
)
def test_options_that_change_no_result(options: dict[str, Any]) -> None:
    plain = DeepPot(DATA / "concat_hard.dp", threads=1).eval(COORDS, None, TYPES)
    with DeepPot(DATA / "concat_hard.dp", threads=1, **options) as potential:
        for x, y in zip(potential.eval(COORDS, None, TYPES), plain, strict=True):
            assert np.array_equal(x, y)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"auto_batch_size": "many"}, "auto_batch_size is 'many'"),
        ({"auto_batch_size": None}, "auto_batch_size is None"),
        ({"nlist_backend": "verlet"}, "nlist_backend 'verlet' is not known"),
        ({"head": 0}, "head is 0; give the name of a branch"),
        ({"load_prefix": "load"}, "load_prefix"),
    ],
)
def test_options_without_a_meaning_are_refused_by_name(options: dict[str, Any], reason: str) -> None:
    with pytest.raises((TypeError, ValueError), match=reason):
        DeepPot(DATA / "concat_hard.dp", **options)


@pytest.mark.parametrize("method", ["eval", "eval_descriptor", "eval_fitting_last_layer", "eval_embedding"])
def test_what_the_model_does_not_have_is_refused_by_name(method: str) -> None:
    potential = DeepPot(DATA / "concat_hard.dp", threads=1)
    with_parameters = DeepPot(DATA / "v2_parameters.pt", threads=1)

    def refused(reason: str, potential: DeepPot = potential, **more: Any) -> None:
        with pytest.raises(StructureError, match=reason):
            getattr(potential, method)(COORDS, None, TYPES, **more)

    for name in BACKENDS_KEYWORDS[method]:
        refused(f"{name}: was given, but no DPA-1 model has one", **{name: np.zeros((1, 2))})
    refused("fparam: was given, but the model has no frame parameters", fparam=[1.0])
    refused("aparam: was given, but the model has no atomic parameters", aparam=np.zeros((1, 2, 1)))
    refused("fparam: has 3 numbers, expected 1 × 2", with_parameters, fparam=[1.0, 2, 3], aparam=[0.5])
    refused("aparam: has 3 numbers, expected 1 × 2", with_parameters, aparam=[1.0, 2, 3])
    refused("fparam: is not an array of numbers", with_parameters, fparam=["a", "b"], aparam=[0.5])
    refused("frame 0: the model needs 1 atomic parameters", with_parameters, fparam=[1.0, 2])
    with pytest.raises(TypeError, match="foo"):
        getattr(potential, method)(COORDS, None, TYPES, foo=1)
    # dp test gives empty arrays where there are no parameters.
    getattr(potential, method)(COORDS, None, TYPES, fparam=np.zeros((1, 0)), aparam=np.zeros((1, 2, 0)))


@pytest.mark.parametrize("method", ["eval_descriptor", "eval_fitting_last_layer", "eval_embedding"])
def test_an_unknown_dtype_is_refused_by_name(method: str) -> None:
    potential = DeepPot(DATA / "concat_hard.dp", threads=1)
    with pytest.raises(ValueError, match="dtype 'fp16' is not known; give fp32, fp64 or native"):
        getattr(potential, method)(COORDS, None, TYPES, dtype="fp16")


@pytest.mark.parametrize("name", ["coords", "cells", "atom_types"])
def test_words_are_no_numbers(name: str) -> None:
    given: dict[str, Any] = {"coords": COORDS, "cells": np.eye(3) * 9, "atom_types": TYPES}
    with pytest.raises(StructureError, match=f"{name}: is not an array of numbers"):
        DeepPot(DATA / "concat_hard.dp", threads=1).eval(**given | {name: [["H", "O"]]})
