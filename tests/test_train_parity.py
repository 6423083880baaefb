"""Statistics, losses, gradients and learning rates are those of DeePMD-kit's trainer, by its own record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import DATA
from tolerances import GRADIENT, STATISTICS

from dpa1_fast import DPA1
from dpa1_fast.checkpoint.deepmd import deepmd_name
from dpa1_fast.train.data import Dataset
from dpa1_fast.train.fields import Fields
from dpa1_fast.train.input_json import _loss, _schedule
from dpa1_fast.train.input_model import read_model
from dpa1_fast.train.loss import errors, prefactors, total
from dpa1_fast.train.options import DataOptions, Options
from dpa1_fast.train.predict import predict
from dpa1_fast.train.schedule import learning_rate
from dpa1_fast.train.statistics import set_statistics
from dpa1_fast.train.validation import detached, measured

with np.load(DATA / "training.npz") as file:
    RECORD = {k: file[k] for k in file.files}
CASES = sorted({k.split("/")[0] for k in RECORD if "/input" in k})
LOSSES = json.loads(str(RECORD["losses"]))
PREFACTORS = json.loads(str(RECORD["prefactors"]))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The record's systems as folders."""
    out = []
    for system in ("system0", "system1", "whole0", "whole1"):
        folder = tmp_path_factory.mktemp(system)
        part = folder / "set.000"
        part.mkdir()
        arrays = {key.split("/")[1]: x for key, x in RECORD.items() if key.startswith(f"{system}/")}
        arrays["real_atom_types"] = arrays.pop("type")
        (folder / "type_map.raw").write_text("H C O")
        np.savetxt(folder / "type.raw", np.zeros(arrays["coord"].shape[1]), fmt="%d")
        for name, x in arrays.items():
            np.save(part / f"{name}.npy", x.reshape(len(x), -1))
        out.append(str(folder))
    return out


def section(name: str, value: Any) -> Fields:
    """A section of an input file."""
    return Fields(Path("input.json"), name, value)


def model_of(case: str, folders: list[str]) -> tuple[DPA1, Dataset]:
    """Our model of a recorded input, statistics made by us."""
    told = read_model(section("model", json.loads(str(RECORD[f"{case}/input"]))))
    options = Options(told.config, DataOptions(("data",)), preset_bias=told.preset_bias)
    folders = folders[2:] if case == "parameters" else folders[:2]
    model = DPA1(told.config).set_dtype(torch.float64)
    data = Dataset(told.config, folders)
    set_statistics(model, data, options, range(len(data)))
    return model, data


def weights(case: str, name: str, what: str = "state") -> np.ndarray | None:
    """DeePMD-kit's array of one of our tensors."""
    return RECORD.get(f"{case}/{what}.atomic_model.{deepmd_name(name)}")


def load(model: DPA1, case: str) -> None:
    """DeePMD-kit's parameters."""
    for name, parameter in model.named_parameters():
        found = weights(case, name)
        assert found is not None, name
        parameter.data.copy_(torch.from_numpy(found))


@pytest.mark.parametrize("case", CASES)
def test_statistics(case: str, folders: list[str]) -> None:
    model, _ = model_of(case, folders)
    compared = set()
    for name, buffer in model.named_buffers():
        if name == "econf":
            continue  # it is in no file
        found = weights(case, name)
        if found is not None and "case_embd" not in name:
            np.testing.assert_allclose(buffer.numpy(), found.reshape(buffer.shape), rtol=0, atol=STATISTICS)
            compared.add(name)
    assert {"davg", "dstd", "out_bias"} <= compared


def compare(case: str, kind: str, folders: list[str], backend: str) -> None:
    """Our loss and gradients of a recorded batch beside DeePMD-kit's."""
    model, data = model_of(case, folders)
    load(model, case)
    options = _loss(section("loss", {**PREFACTORS, **LOSSES[kind]}))
    batch, labels = data.batch([k for k, s in enumerate(data.samples) if s.system == 0])
    sums = errors(options, predict(model, batch, backend), labels, batch)
    factors = prefactors(options, float(RECORD["share"]))
    loss = total(sums, sums.counts, factors)
    loss.backward()
    recorded = {k.removeprefix(f"{case}/{kind}."): x for k, x in RECORD.items() if k.startswith(f"{case}/{kind}.")}
    assert float(loss.detach()) == pytest.approx(float(recorded["loss"]), rel=GRADIENT)
    theirs = {n: weights(case, n, f"{kind}.grad") for n, p in model.named_parameters()}
    scale = max(float(np.abs(x).max()) for x in theirs.values() if x is not None)
    for name, parameter in model.named_parameters():
        found = theirs[name]
        if found is None:
            assert parameter.grad is None or not parameter.grad.any(), name
            continue
        assert parameter.grad is not None, name
        size = max(float(np.abs(found).max()), 1e-3 * scale)
        np.testing.assert_allclose(parameter.grad.numpy(), found, rtol=0, atol=GRADIENT * size, err_msg=name)
    shown = measured(detached(sums), factors)
    for key in ("rmse_e", "rmse_f", "rmse_v", "rmse_ae", "mae_e", "mae_f", "mae_v"):
        if f"more.{key}" in recorded and not (key == "mae_f" and options.norm):
            how, term = key.split("_")
            of = {"e": "energy", "f": "force", "v": "virial", "ae": "atomic"}[term]
            mine = (shown.rmse if how == "rmse" else shown.mae)[of]
            assert mine == pytest.approx(float(recorded[f"more.{key}"]), rel=1e-10), key


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_for_every_option_of_the_model(case: str, backend: str, folders: list[str]) -> None:
    compare(case, "mse", folders, backend)


@pytest.mark.parametrize("kind", [k for k in LOSSES if k != "mse"])
def test_every_kind_of_loss(kind: str, folders: list[str]) -> None:
    compare("plain", kind, folders, "reference")


@pytest.mark.parametrize("name", [k.split("/")[1] for k in RECORD if k.startswith("schedule/")])
def test_learning_rates(name: str) -> None:
    recorded = RECORD[f"schedule/{name}"]
    steps = len(recorded) - 1
    given = json.loads(str(RECORD[f"schedule_options/{name}"]))
    options = _schedule(section("learning_rate", {"type": name.split("_")[0], "start_lr": 1e-3, **given}), steps)
    rate = learning_rate(options, steps)
    np.testing.assert_allclose([rate(k) for k in range(steps + 1)], recorded, rtol=1e-12)
