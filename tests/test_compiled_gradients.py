"""Compiled training passes give the losses and parameter gradients of formulas differentiated twice."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import BASE, crystal, molecule
from tolerances import TRAINING_FLOAT32, TRAINING_FLOAT64

from dpa1_fast import DPA1, DPA1Config
from dpa1_fast.model import Prediction
from dpa1_fast.structures.batch import Batch, collate, neighborhood
from dpa1_fast.structures.structure import from_ase
from dpa1_fast.train import compiled
from dpa1_fast.train.compiled import CompiledGradients

FITTING = BASE.fitting
OPTIONS = {
    "as it is": {},
    "hard softmax": {"smooth_type_embedding": False},
    "no angular gate": {"attn_dotr": False},
    "lengths as they are": {"normalize": False},
    "no attention": {"attn_layer": 0},
    "three layers": {"attn_layer": 3},
    "temperature": {"temperature": 2.0},
    "strip": {"tebd_input_mode": "strip"},
    "strip, one side, hard": {
        "tebd_input_mode": "strip", "type_one_side": True, "smooth_type_embedding": False, "resnet_dt": True,
    },
    "strip, widths that return": {"tebd_input_mode": "strip", "neuron": (1, 2, 4)},
    "strip, a first layer that doubles": {"tebd_input_mode": "strip", "neuron": (2, 4, 8)},
    "one side": {"type_one_side": True},
    "time steps": {"resnet_dt": True},
    "a first layer that returns": {"neuron": (11, 11, 22), "resnet_dt": True},
    "a first layer that doubles": {"neuron": (22, 22, 22), "axis_neuron": 3},
    "descriptor without types": {"concat_output_tebd": False},
    "electron configurations": {"use_econf_tebd": True, "use_tebd_bias": True},
    "silent pairs": {"exclude_types": ((0, 1),)},
    "absent pairs": {"pair_exclude_types": ((0, 1),)},
    "silent atoms": {"atom_exclude_types": (0,)},
    "few slots": {"sel": (5,)},
    "protected": {"env_protection": 0.01},
    "vacuum": {"fitting": replace(FITTING, atom_ener=(1.0, 2.0, 3.0), resnet_dt=False, neuron=(7, 5))},
    "parameters": {"fitting": replace(FITTING, numb_fparam=2, numb_aparam=1, dim_case_embd=2)},
    **{name: {"activation_function": name} for name in ("relu6", "softplus", "sigmoid", "silu", "gelu", "silut:2.0")},
}  # fmt: skip


def model_of(config: DPA1Config, dtype: torch.dtype, shifted: bool) -> DPA1:
    torch.manual_seed(1)
    model = DPA1(config).set_dtype(dtype)
    with torch.no_grad():
        model.dstd[:, 0] *= 0.3
        model.dstd[:, 1:] *= 0.2
        if shifted:
            model.davg[:, 0] = 0.1 + 0.05 * torch.arange(config.ntypes)
        for name, parameter in model.named_parameters():
            if "layer_norm" in name:
                parameter += 0.1 * torch.randn_like(parameter)
    return model


def batch_of(config: DPA1Config) -> Batch:
    atoms = [molecule(6), molecule(1, 2), crystal(), molecule(14, 3)]
    for a in atoms:
        if config.fitting.numb_fparam:
            a.info["fparam"] = [0.3, -0.2]
        if config.fitting.numb_aparam:
            a.arrays["aparam"] = torch.linspace(-1, 1, len(a)).view(-1, 1).numpy()
    return collate(config, [neighborhood(config, from_ase(config, a, "a structure")) for a in atoms])


def loss(p: Prediction) -> torch.Tensor:
    """Something that every output enters, not linearly."""
    g = torch.Generator().manual_seed(5)
    total = torch.zeros((), dtype=torch.float64)
    for x in (p.energy, p.forces, p.virial, p.energies):
        total = total + (x * torch.rand(x.shape, generator=g, dtype=torch.float64)).sum() + 0.01 * (x**2).sum()
    return total


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30)).detach())


def gradients(model: DPA1, prediction: Prediction) -> list[torch.Tensor]:
    model.zero_grad()
    loss(prediction).backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]


def check(config: DPA1Config, dtype: torch.dtype, shifted: bool, tolerance: float) -> None:
    model, batch = model_of(config, dtype, shifted), batch_of(config)
    expected, found = model(batch), CompiledGradients(model, threads=2)(batch)
    for name in Prediction._fields:
        assert apart(getattr(found, name), getattr(expected, name)) < tolerance, name
    names = [name for name, _ in model.named_parameters()]
    # A sum that cancels to nothing is as good as its largest part.
    for name, f, e in zip(names, gradients(model, found), gradients(model, expected), strict=True):
        assert apart(f, e) < tolerance, name


@pytest.mark.parametrize("shifted", [False, True], ids=["davg zero", "davg not zero"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_every_option_has_the_gradients_of_the_formulas(options: dict[str, object], shifted: bool) -> None:
    check(replace(BASE, **options), torch.float64, shifted, TRAINING_FLOAT64)


def test_float32_has_them_to_its_precision() -> None:
    check(replace(BASE, precision="float32"), torch.float32, False, TRAINING_FLOAT32)


def test_neither_chunks_nor_threads_change_more_than_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = model_of(BASE, torch.float64, True), batch_of(BASE)
    whole = gradients(model, CompiledGradients(model, threads=1)(batch))
    monkeypatch.setattr(compiled, "PASS_BYTES", 1)
    for found, expected in zip(gradients(model, CompiledGradients(model, threads=3)(batch)), whole, strict=True):
        assert apart(found, expected) < TRAINING_FLOAT64


def test_the_same_call_gives_the_same_bits() -> None:
    model, batch = model_of(BASE, torch.float32, False), batch_of(BASE)
    fast = CompiledGradients(model, threads=2)
    first, second = gradients(model, fast(batch)), gradients(model, fast(batch))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_frozen_parameters_receive_nothing() -> None:
    model, batch = model_of(BASE, torch.float64, False), batch_of(BASE)
    expected = gradients(model, model(batch))
    for part in (model.embedding, model.fitting.layers[0]):
        part.requires_grad_(False)
    found = gradients(model, CompiledGradients(model, threads=1)(batch))
    for p, f, e in zip(model.parameters(), found, expected, strict=True):
        assert apart(f, e) < TRAINING_FLOAT64 if p.requires_grad else not f.any()


def test_half_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="bfloat16"):
        CompiledGradients(DPA1(BASE).set_dtype(torch.bfloat16))
