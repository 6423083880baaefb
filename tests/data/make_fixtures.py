"""Makes the small parity fixtures in this folder by running DeePMD-kit.

Run it with DeePMD-kit 3.2.0's own Python (``make peer`` installs one):

    build/peer/bin/python tests/data/make_fixtures.py

Models are DeePMD-kit's own, freshly initialised and then shaken so that no statistic, bias or LayerNorm weight has a
value under which a mistake would hide. Each gets ``NAME.npz`` with structures and DeePMD-kit's results in float64.
"""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deepmd.dpmodel.utils.serialization import save_dp_model
from deepmd.infer import DeepPot
from deepmd.pt.model.model import get_model

HERE = Path(__file__).parent
SMALL = {"rcut": 4.0, "rcut_smth": 1.0, "neuron": [4, 8, 16], "axis_neuron": 4, "tebd_dim": 6, "attn": 12}
FITTING: dict[str, Any] = {"neuron": [16, 16], "resnet_dt": True, "type": "ener"}

MODELS: dict[str, dict[str, Any]] = {
    "concat_hard": {
        "type_map": ["O", "H"],
        "descriptor": {**SMALL, "type": "se_atten", "sel": 24, "attn_layer": 2, "smooth_type_embedding": False,
                       "set_davg_zero": True, "tebd_input_mode": "concat"},
        "fitting_net": FITTING,
    },
    "concat_smooth_davg": {
        "type_map": ["H", "C", "O"],
        "descriptor": {**SMALL, "type": "dpa1", "sel": [10, 12], "attn_layer": 2, "smooth_type_embedding": True,
                       "set_davg_zero": False, "tebd_input_mode": "concat", "scaling_factor": 2.0},
        "fitting_net": FITTING,
        "pair_exclude_types": [[0, 1]],
        "atom_exclude_types": [2],
    },
    "strip_onesided": {
        "type_map": ["H", "C", "O"],
        "descriptor": {**SMALL, "type": "se_atten", "sel": 22, "attn_layer": 1, "smooth_type_embedding": True,
                       "set_davg_zero": False, "tebd_input_mode": "strip", "type_one_side": True, "resnet_dt": True,
                       "temperature": 0.4, "normalize": False, "attn_dotr": False, "exclude_types": [[0, 2]],
                       "env_protection": 0.01, "activation_function": "silut:2.0", "concat_output_tebd": False},
        "fitting_net": {**FITTING, "atom_ener": [None, -1.5, 2.0], "activation_function": "gelu"},
    },
    "v2_parameters": {
        "type_map": ["Al", "Mg"],
        "descriptor": {**SMALL, "type": "se_atten_v2", "sel": 22, "attn_layer": 1, "set_davg_zero": False,
                       "tebd_dim": 4, "ln_eps": 1e-3},
        "fitting_net": {**FITTING, "numb_fparam": 2, "numb_aparam": 1, "default_fparam": [0.3, -0.2]},
    },
    "econf_float32": {
        "type_map": ["Fe", "Gd", "U", "O"],
        "descriptor": {**SMALL, "type": "se_atten", "sel": 22, "attn_layer": 1, "smooth_type_embedding": True,
                       "set_davg_zero": True, "use_econf_tebd": True, "use_tebd_bias": True, "precision": "float32"},
        "fitting_net": {**FITTING, "precision": "float32"},
    },
}  # fmt: skip
FORMATS = {"concat_hard": ["pt", "pth", "dp", "yaml"], "v2_parameters": ["pt"], "econf_float32": ["pth"]}


def shake(model: torch.nn.Module, seed: int) -> None:
    """Gives statistics, biases and LayerNorms values that are neither 0 nor 1."""
    g = torch.Generator().manual_seed(seed)
    block = model.atomic_model.descriptor.se_atten

    def noise(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    ntypes, nnei = block.mean.shape[:2]
    std = (0.3 + 0.2 * noise((ntypes, 1, 2)).abs()).expand(-1, nnei, -1)
    block.stddev.copy_(torch.cat([std[..., :1], std[..., 1:].expand(-1, -1, 3)], -1))
    if not block.set_davg_zero:
        block.mean[..., 0] = (0.1 + 0.05 * noise((ntypes, 1))).expand(-1, nnei)
    for layer in block.dpa1_attention.attention_layers:
        layer.attn_layer_norm.matrix.data += 0.2 * noise((block.neuron[-1],)).to(layer.attn_layer_norm.matrix)
        layer.attn_layer_norm.bias.data += 0.2 * noise((block.neuron[-1],)).to(layer.attn_layer_norm.bias)
    fit = model.atomic_model.fitting_net
    fit.bias_atom_e.copy_(0.5 * noise((ntypes, 1)))
    model.atomic_model.out_bias.copy_(noise((1, ntypes, 1)))
    for name in ("fparam", "aparam"):
        if getattr(fit, f"{name}_avg") is not None:
            shape = tuple(getattr(fit, f"{name}_avg").shape)
            getattr(fit, f"{name}_avg").copy_(0.3 * noise(shape))
            getattr(fit, f"{name}_inv_std").copy_(1.0 + 0.3 * noise(shape).abs())
    if fit.case_embd is not None:
        fit.set_case_embd(seed % fit.dim_case_embd)


def structures(ntypes: int, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Small structures that between them meet every branch of the neighbour search and of the padding rules."""
    rng = np.random.default_rng(seed)

    def cloud(n: int, box: float, closest: float = 0.9) -> np.ndarray:
        points: list[np.ndarray] = []
        while len(points) < n:
            p = rng.uniform(0, box, 3)
            if all(np.linalg.norm(p - q) > closest for q in points):
                points.append(p)
        return np.array(points)

    triclinic = np.array([[4.1, 0.0, 0.0], [1.0, 3.9, 0.0], [-0.7, 0.8, 4.3]])
    cases = {
        "molecule": (cloud(7, 3.5), None),
        "triclinic": (cloud(4, 3.6) + [9.0, -7.0, 0.0], triclinic),
        "left_handed": (cloud(4, 3.6), triclinic[[1, 0, 2]]),
        "over_sel": (cloud(8, 3.9), np.eye(3) * 4.2),
        "isolated": (np.array([[0.0, 0.0, 0.0], [20.0, 0.0, 0.0]]), None),
        "virtual": (cloud(5, 3.4), None),
    }
    out = {}
    for name, (coord, cell) in cases.items():
        types = rng.integers(0, ntypes, len(coord))
        if name == "virtual":
            types[[0, 3]] = -1
        out[name] = {"coord": coord, "type": types, "cell": np.zeros((0, 3)) if cell is None else cell}
    return out


def results(path: Path, cases: dict[str, dict[str, np.ndarray]], seed: int, **options: Any) -> dict[str, np.ndarray]:
    """Structures and DeePMD-kit's results, keyed ``case.quantity``."""
    potential = DeepPot(str(path), no_jit=True, **options)  # scripted, upstream fails on atom_ener
    out: dict[str, np.ndarray] = {}
    potential.deep_eval.dp.requires_grad_(False)
    rng = np.random.default_rng(seed)
    for name, case in cases.items():
        case = dict(case)
        n, cell = len(case["type"]), case["cell"]
        if potential.get_dim_fparam():
            case["fparam"] = rng.normal(size=potential.get_dim_fparam())
            case["aparam"] = rng.normal(size=(n, potential.get_dim_aparam()))
        box = None if len(cell) == 0 else cell.reshape(1, 9)
        fp, ap = case.get("fparam"), case.get("aparam")
        e, f, v, ae, av = potential.eval(case["coord"][None], box, case["type"], atomic=True, fparam=fp, aparam=ap)
        case |= {"energy": e[0, 0], "force": f[0], "virial": v[0], "atom_energy": ae[0, :, 0], "atom_virial": av[0]}
        out |= {f"{name}.{k}": x for k, x in case.items()}
    return out


def checkpoint(path: Path, models: dict[str, torch.nn.Module], params: dict[str, Any]) -> None:
    """What ``dp --pt train`` saves: parameters of every head below ``model.HEAD.`` and the hyper-parameters."""
    state = {f"model.{head}.{k}": v for head, model in models.items() for k, v in model.state_dict().items()}
    state["_extra_state"] = {"model_params": params, "train_infos": {"lr": 0, "step": 0}}
    torch.save({"model": state}, path)


def make(name: str, params: dict[str, Any], seed: int) -> None:
    torch.manual_seed(seed)
    model = get_model(copy.deepcopy(params)).to("cpu")
    shake(model, seed)
    model.model_def_script = json.dumps(params)
    model.eval()
    formats = FORMATS.get(name, ["dp"])
    for kind in formats:
        path = HERE / f"{name}.{kind}"
        if kind == "pt":
            checkpoint(path, {"Default": model}, params)
        elif kind == "pth":
            torch.jit.script(model).save(str(path))
        else:
            tree = {"model": model.serialize(), "model_def_script": params, "backend": "PyTorch", "@variables": {}}
            save_dp_model(str(path), tree)
    with tempfile.TemporaryDirectory() as folder:
        judge = Path(folder) / f"{name}.pt"
        checkpoint(judge, {"Default": model}, params)
        np.savez_compressed(HERE / f"{name}.npz", **results(judge, structures(len(params["type_map"]), seed), seed))


def make_two_heads(seed: int) -> None:
    """A multi-task checkpoint: one descriptor, two energy nets that know their case."""
    torch.manual_seed(seed)
    base = {
        "type_map": ["O", "H"],
        "descriptor": {**MODELS["concat_hard"]["descriptor"], "smooth_type_embedding": True},
    }
    heads = {
        "liquid": {**base, "fitting_net": {**FITTING, "dim_case_embd": 2}, "model_branch_alias": ["water"]},
        "vapour": {**base, "fitting_net": {**FITTING, "neuron": [12], "dim_case_embd": 2}},
    }
    models = {}
    for k, (head, params) in enumerate(heads.items()):
        models[head] = get_model(copy.deepcopy(params)).to("cpu")
        shake(models[head], seed + k)
    path = HERE / "two_heads.pt"
    checkpoint(path, models, {"model_dict": heads})
    for head in heads:
        found = results(path, structures(2, seed), seed, head=head)
        np.savez_compressed(HERE / f"two_heads_{head}.npz", **found)


if __name__ == "__main__":
    for number, (model_name, model_params) in enumerate(MODELS.items()):
        make(model_name, model_params, 100 + number)
    make_two_heads(200)
