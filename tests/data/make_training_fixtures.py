"""Records what DeePMD-kit's trainer computes: statistics, losses and their gradients, for the options of the model.

Run it with DeePMD-kit 3.2.0's own Python (``make peer`` installs one):

    build/peer/bin/python tests/data/make_training_fixtures.py

Labels are random numbers: nothing here is about physics. ``training.npz`` has a few small mixed systems, and for each
case its input (JSON), DeePMD-kit's weights, statistics, loss and gradients, all in float64.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deepmd.pt.loss.ener import EnergyStdLoss
from deepmd.pt.model.model import get_model
from deepmd.pt.utils.learning_rate import LearningRateCosine, LearningRateExp, LearningRateWSD
from deepmd.utils.argcheck import normalize

HERE = Path(__file__).parent
TYPES = ["H", "C", "O"]
SMALL = {"type": "se_atten", "sel": 20, "rcut": 4.0, "rcut_smth": 1.0, "neuron": [3, 6], "axis_neuron": 2,
         "tebd_dim": 4, "attn": 4, "attn_layer": 1}  # fmt: skip
FITTING: dict[str, Any] = {"neuron": [6, 6]}
PREFACTORS = {"start_pref_e": 0.02, "limit_pref_e": 1.0, "start_pref_f": 900.0, "limit_pref_f": 1.0,
              "start_pref_v": 0.1, "limit_pref_v": 2.0, "start_pref_ae": 0.3, "limit_pref_ae": 0.5}  # fmt: skip
SHARE = 0.37
"""lr/lr0 at which losses are taken."""

MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "smooth": {"smooth_type_embedding": True, "attn_layer": 2},
    "hard_davg": {"set_davg_zero": False, "attn_layer": 2},
    "smooth_davg": {"set_davg_zero": False, "smooth_type_embedding": True},
    "strip": {"tebd_input_mode": "strip", "set_davg_zero": False},
    "strip_smooth_onesided": {"tebd_input_mode": "strip", "smooth_type_embedding": True, "type_one_side": True},
    "one_sided": {"type_one_side": True, "concat_output_tebd": False},
    "v2": {"type": "se_atten_v2"},
    "no_attention": {"attn_layer": 0, "neuron": [3, 6, 6], "resnet_dt": True},
    "no_dotr": {"attn_dotr": False, "normalize": False, "temperature": 0.4},
    "scaled": {"scaling_factor": 2.0, "smooth_type_embedding": True, "ln_eps": 1e-3, "env_protection": 0.01},
    "excluded": {"exclude_types": [[0, 1]], "set_davg_zero": False, "smooth_type_embedding": True},
    "model_excludes": {"set_davg_zero": False},
    "econf": {"use_econf_tebd": True, "use_tebd_bias": True},
    "tebd_resnet": {"tebd_dim": 3, "use_tebd_bias": True, "activation_function": "silut:2.0"},
    "parameters": {"activation_function": "gelu"},
    "vacuum": {},
}
OF_MODEL: dict[str, dict[str, Any]] = {
    "model_excludes": {"pair_exclude_types": [[0, 2]], "atom_exclude_types": [1]},
    "parameters": {"fitting_net": {**FITTING, "numb_fparam": 2, "numb_aparam": 1, "activation_function": "silu"}},
    "vacuum": {"fitting_net": {**FITTING, "atom_ener": [None, -1.5, 2.0], "resnet_dt": False}},
    "one_sided": {"preset_out_bias": {"energy": [None, 0.7, None]}},
}
LOSSES: dict[str, dict[str, Any]] = {
    "mse": {},
    "huber": {"use_huber": True, "huber_delta": 0.4},
    "huber_list": {"use_huber": True, "huber_delta": [0.1, 0.5, 0.3], "f_use_norm": True},
    "mae": {"loss_func": "mae"},
    "mae_norm": {"loss_func": "mae", "f_use_norm": True},
    "intensive": {"intensive_ener_virial": True},
    "relative": {"relative_f": 0.8},
    "energy_only": {"start_pref_f": 0.0, "start_pref_v": 0.0, "start_pref_ae": 0.0},
}
SCHEDULES: dict[str, tuple[Any, dict[str, Any]]] = {
    "exp": (LearningRateExp, {"stop_lr": 1e-6, "decay_steps": 50}),
    "exp_short": (LearningRateExp, {"stop_lr": 1e-6, "decay_steps": 5000}),
    "exp_smooth": (LearningRateExp, {"stop_lr": 1e-5, "decay_steps": 30, "smooth": True, "warmup_steps": 40}),
    "exp_rate": (LearningRateExp, {"stop_lr": 1e-4, "decay_steps": 30, "decay_rate": 0.7}),
    "cosine": (LearningRateCosine, {"stop_lr": 1e-5, "warmup_steps": 30, "warmup_start_factor": 0.1}),
    "wsd": (LearningRateWSD, {"stop_lr": 1e-5, "warmup_steps": 30, "decay_phase_ratio": 0.4}),
    "wsd_cosine": (LearningRateWSD, {"stop_lr": 1e-5, "decay_type": "cosine"}),
    "wsd_linear": (LearningRateWSD, {"stop_lr": 1e-5, "decay_type": "linear"}),
}
STEPS = 700


def systems(seed: int, padded: bool = True) -> list[dict[str, np.ndarray]]:
    """Two systems of mixed frames; where ``padded``, atoms of type −1 at the end fill up smaller structures.

    DeePMD-kit's averages of atomic parameters count padding too, so what has these is not padded.
    """
    rng = np.random.default_rng(seed)
    out = []
    for frames, n in ((3, 8), (2, 4)):
        coord = np.zeros((frames, n, 3))
        types = rng.integers(0, 3, (frames, n))
        cells = np.zeros((frames, 9))
        for k in range(frames):
            cell = np.array([[4.6, 0.0, 0.0], [0.8, 4.4, 0.0], [-0.5, 0.6, 4.7]]) + 0.2 * rng.normal(size=(3, 3))
            grid = np.stack(np.meshgrid(*[np.arange(2)] * 3), -1).reshape(-1, 3)[:n]
            coord[k] = (grid / 2 + rng.uniform(-0.06, 0.06, (n, 3))) @ cell
            cells[k] = cell.ravel()
            types[k, n >> k if padded else n :] = -1
        out.append({
            "coord": coord, "type": types, "box": cells, "energy": rng.normal(-9, 3, (frames, 1)),
            "force": rng.normal(size=(frames, n, 3)), "virial": rng.normal(size=(frames, 9)),
            "atom_ener": rng.normal(size=(frames, n, 1)), "fparam": rng.normal(size=(frames, 2)),
            "aparam": rng.normal(size=(frames, n, 1)),
        })  # fmt: skip
    return out


def sampled(data: list[dict[str, np.ndarray]], parameters: bool) -> list[dict[str, Any]]:
    """Systems as DeePMD-kit's statistics take them."""
    out = []
    for s in data:
        counts = np.stack([(s["type"] == t).sum(1) for t in range(3)], 1)
        n = (s["type"] >= 0).sum(1, keepdims=True)
        one = {k: torch.tensor(s[k]) for k in ("coord", "box", "energy")}
        one |= {"atype": torch.tensor(s["type"]), "find_energy": np.float32(1.0)}
        one["real_natoms_vec"] = one["natoms"] = torch.tensor(np.concatenate([n, n, counts], 1))
        if parameters:
            one |= {k: torch.tensor(s[k]) for k in ("fparam", "aparam")}
        out.append(one)
    return out


def loss_and_gradients(model: Any, data: dict[str, np.ndarray], options: dict[str, Any], fit: bool) -> dict[str, Any]:
    """The loss of a batch at ``SHARE`` of the first learning rate, and its gradient of every parameter."""
    judge = EnergyStdLoss(starter_learning_rate=1.0, **{**PREFACTORS, **options})
    inputs = {k: torch.tensor(data[k]) for k in ("coord", "box")} | {"atype": torch.tensor(data["type"])}
    if fit:
        inputs |= {k: torch.tensor(data[k]) for k in ("fparam", "aparam")}
    label = {k: torch.tensor(data[k]) for k in ("energy", "force", "virial", "atom_ener")}
    label |= {f"find_{k}": 1.0 for k in ("energy", "force", "virial", "atom_ener")}

    def exact(**given: Any) -> dict[str, Any]:
        """The model, with the mask of real atoms in float64: of an integer one the loss takes 1/N in float32."""
        return {k: v.double() if k == "mask" else v for k, v in model(**given).items()}

    model.zero_grad()
    _, loss, more = judge(inputs, exact, label, natoms=data["type"].shape[1], learning_rate=SHARE)
    loss.backward()
    out = {f"grad.{k}": p.grad.numpy().copy() for k, p in model.named_parameters() if p.grad is not None}
    out["loss"] = loss.detach().numpy()
    return out | {f"more.{k}": v.numpy() for k, v in more.items() if k.startswith(("rmse", "mae"))}


def case(name: str, data: list[dict[str, np.ndarray]], seed: int) -> dict[str, np.ndarray]:
    """Everything of one model."""
    torch.manual_seed(seed)
    model_input = {"type_map": TYPES, "descriptor": {**SMALL, **MODELS[name]}, "fitting_net": FITTING}
    model_input |= OF_MODEL.get(name, {})
    whole = {
        "model": copy.deepcopy(model_input),
        "training": {"training_data": {"systems": ["."]}, "numb_steps": 1},
        "learning_rate": {"type": "exp", "start_lr": 1e-3, "stop_lr": 1e-6},
        "loss": {"type": "ener"},
    }
    model = get_model(normalize(whole)["model"]).to("cpu")
    parameters = "fparam" in json.dumps(model_input)
    model.compute_or_load_stat(lambda: sampled(data, parameters))
    out = {"input": np.array(json.dumps(model_input))}
    with torch.no_grad():  # nothing at a value under which a mistake would hide
        for p in model.parameters():
            p += 0.05 * torch.randn_like(p)
    out |= {f"state.{k}": v.numpy().copy() for k, v in model.state_dict().items() if "extra_state" not in k}
    losses = LOSSES if name == "plain" else {"mse": {}}
    for kind, options in losses.items():
        found = loss_and_gradients(model, data[0], options, parameters)
        out |= {f"{kind}.{k}": v for k, v in found.items()}
    return {f"{name}/{k}": v for k, v in out.items()}


if __name__ == "__main__":
    rows, whole_rows = systems(3), systems(4, padded=False)
    kept: dict[str, np.ndarray] = {f"system{k}/{key}": x for k, s in enumerate(rows) for key, x in s.items()}
    kept |= {f"whole{k}/{key}": x for k, s in enumerate(whole_rows) for key, x in s.items()}
    for number, one in enumerate(MODELS):
        kept |= case(one, whole_rows if one == "parameters" else rows, 300 + number)
    # Networks' weights stand twice in a state, under two names; statistics are the same in every slot.
    for key in [k for k in kept if "._networks." in k]:
        del kept[key]
    for key in [k for k in kept if k.endswith(("se_atten.mean", "se_atten.stddev"))]:
        assert (kept[key] == kept[key][:, :1]).all()
        kept[key] = kept[key][:, 0]
    for one, (kind, arguments) in SCHEDULES.items():
        rates = kind(start_lr=1e-3, num_steps=STEPS, **arguments).value(np.arange(STEPS + 1))
        kept[f"schedule/{one}"] = np.asarray(rates)
        kept[f"schedule_options/{one}"] = np.array(json.dumps(arguments))
    kept["prefactors"], kept["share"] = np.array(json.dumps(PREFACTORS)), np.array(SHARE)
    kept["losses"] = np.array(json.dumps(LOSSES))
    np.savez_compressed(HERE / "training.npz", **kept)
    print(f"{len(kept)} arrays, {(HERE / 'training.npz').stat().st_size / 1e3:.0f} kB")
