"""From DeePMD-kit's names to ours, and the refusal of everything that is not a DPA-1 energy model."""

from __future__ import annotations

from typing import Any

import torch

from ..config import DPA1Config, FittingConfig
from ..errors import ConfigError, ModelFileError
from ..model import DPA1
from .raw import RawModel

SERVED = "dpa1-fast serves DPA-1 energy models (descriptor se_atten, dpa1 or se_atten_v2 with fitting ener)"
DESCRIPTORS = ("se_atten", "dpa1", "se_atten_v2")
PRECISIONS = {"default": "float64", "double": "float64", "single": "float32", "half": "float16"}


def assemble(raw: RawModel) -> DPA1:
    """The model that a file describes, every tensor checked, parameters in float64.

    Raises:
        ModelFileError: not a DPA-1 energy model, or a tensor missing, of the wrong shape, or not finite.
    """
    refuse_others(raw)
    config = read_config(raw)
    with torch.device("meta"):
        model = DPA1(config)
    state = {}
    for ours, expected in model.state_dict().items():
        state[ours] = _fetch(raw, config, ours, tuple(expected.shape))
    if (state["dstd"] == 0).any():
        raise ModelFileError(raw.path, f"has zeros in {deepmd_name('dstd')}", "compute its statistics again")
    with torch.device("cpu"):
        fresh = DPA1(config) if config.use_econf_tebd else model
    fresh.load_state_dict(state, assign=True)
    return fresh


# --- what is refused ----------------------------------------------------------------------------------------------


def refuse_others(raw: RawModel) -> None:
    """Refuses models of another kind by the name that their authors would use.

    Raises:
        ModelFileError: one line that says what the file is.
    """
    what = _foreign(raw.params)
    if what:
        raise ModelFileError(raw.path, what, SERVED)


def _foreign(params: dict[str, Any]) -> str | None:
    kind = str(params.get("type") or "standard").lower()
    descriptor, fitting = params.get("descriptor") or {}, params.get("fitting_net") or {}
    name = str(descriptor.get("type", "")).lower()
    if params.get("spin") is not None or "spin" in kind or descriptor.get("spin") is not None:
        return "is a spin model"
    if "zbl" in kind or params.get("use_srtab"):
        return "is a zbl model (DPA-1 interpolated with a pairtab pair table)"
    if "pairtab" in kind:
        return "is a pairtab model"
    if "linear" in kind or "models" in params:
        return "is a linear combination of models (linear_ener)"
    if name.startswith(("dpa2", "dpa3", "dpa4")) or name.startswith(("descrptdpa2", "descrptdpa3", "descrptdpa4")):
        return f"is a DPA-{name.removeprefix('descrpt')[3]} model"
    if name == "hybrid" or name == "descrpthybrid":
        return "is a hybrid model (several descriptors)"
    if name not in DESCRIPTORS:
        return f"is a {name} model" if name else "has no descriptor"
    if kind not in ("standard", "ener"):
        return f"is a model of type {kind}"
    fit = str(fitting.get("type", "ener")).lower()
    if fit not in ("ener", "energyfittingnet"):
        return f"fits {fit}: it is DPA-1, but not an energy model"
    if int(descriptor.get("lmax", 1) or 1) > 1:
        return f"uses lmax = {descriptor['lmax']}; DPA-1 here has lmax = 1 only"
    if descriptor.get("attn_mask"):
        return "uses attn_mask = true, which DeePMD-kit does not implement either"
    if descriptor.get("use_exp_switch"):
        return "uses the exponential switch, which is not DPA-1's"
    if fitting.get("mixed_types") is False:
        return "has one fitting net per element (mixed_types = false)"
    if fitting.get("tot_ener_zero"):
        return "uses tot_ener_zero, which the PyTorch backend does not have either"
    if params.get("modifier"):
        return "uses a data modifier"
    if str(params.get("bridging_method") or "none").lower() != "none":
        return f"is bridged with another potential at short range ({params['bridging_method']})"
    return None


# --- hyper-parameters ---------------------------------------------------------------------------------------------


def read_config(raw: RawModel) -> DPA1Config:
    """Our configuration. What a file leaves out has the default of DeePMD-kit's PyTorch constructor.

    Raises:
        ModelFileError: naming the option that is missing or wrong.
    """
    try:
        return _config(raw)
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        reason = f"lacks the option {error}" if isinstance(error, KeyError) else f"has a bad option: {error}"
        raise ModelFileError(raw.path, reason, "write the file again with DeePMD-kit") from None


def _config(raw: RawModel) -> DPA1Config:
    params = raw.params
    d, f = dict(params["descriptor"]), dict(params.get("fitting_net") or {})
    mode = d.get("tebd_input_mode", "concat")
    if d.get("stripped_type_embedding") is not None:
        mode = "strip" if d["stripped_type_embedding"] else "concat"
    smooth = d.get("smooth_type_embedding", True)
    if d["type"] == "se_atten_v2":
        mode, smooth = "strip", True
    bias = d.get("use_tebd_bias")
    if bias is None:  # files older than the option: the tensor tells
        bias = deepmd_name("type_embedding.bias") in raw.tensors
    sel = d["sel"]
    given = {k: d[k] for k in ("temperature",) if d.get(k) is not None}
    if d.get("ln_eps") is not None:
        given["ln_eps"] = float(d["ln_eps"])
    for key, cast in _CASTS.items():
        if key in d:
            given[key] = cast(d[key])
    return DPA1Config(
        type_map=tuple(params["type_map"]),
        rcut=float(d["rcut"]),
        rcut_smth=float(d["rcut_smth"]),
        sel=tuple(int(n) for n in sel) if isinstance(sel, (list, tuple)) else (int(sel),),
        tebd_input_mode=mode,
        smooth_type_embedding=bool(smooth),
        use_tebd_bias=bool(bias),
        precision=_precision(d.get("precision", "default")),
        exclude_types=_pairs(d.get("exclude_types")),
        pair_exclude_types=_pairs(params.get("pair_exclude_types")),
        atom_exclude_types=tuple(params.get("atom_exclude_types") or ()),
        fitting=_fitting(f),
        **given,
    )


_CASTS: dict[str, Any] = {
    "neuron": tuple, "axis_neuron": int, "tebd_dim": int, "type_one_side": bool, "set_davg_zero": bool, "attn": int,
    "attn_layer": int, "attn_dotr": bool, "normalize": bool, "scaling_factor": float, "activation_function": str,
    "resnet_dt": bool, "env_protection": float, "trainable_ln": bool, "use_econf_tebd": bool,
    "concat_output_tebd": bool,
}  # fmt: skip


def _fitting(f: dict[str, Any]) -> FittingConfig:
    default, vacuum = f.get("default_fparam"), f.get("atom_ener") or []
    return FittingConfig(
        neuron=tuple(f.get("neuron", (128, 128, 128))),
        resnet_dt=bool(f.get("resnet_dt", True)),
        activation_function=str(f.get("activation_function", "tanh")),
        precision=_precision(f.get("precision", "default")),
        numb_fparam=int(f.get("numb_fparam", 0)),
        numb_aparam=int(f.get("numb_aparam", 0)),
        dim_case_embd=int(f.get("dim_case_embd", 0)),
        default_fparam=None if default is None else tuple(float(x) for x in default),
        use_aparam_as_mask=bool(f.get("use_aparam_as_mask", False)),
        atom_ener=tuple(None if e is None else float(e[0] if isinstance(e, (list, tuple)) else e) for e in vacuum),
        exclude_types=tuple(f.get("exclude_types") or ()),
    )


def _precision(name: str) -> str:
    return PRECISIONS.get(name, name)


def _pairs(value: Any) -> tuple[tuple[int, int], ...]:
    return tuple((int(a), int(b)) for a, b in value or ())


# --- tensors ------------------------------------------------------------------------------------------------------


def deepmd_name(ours: str) -> str:
    """DeePMD-kit's PyTorch name of one of our tensors, below ``atomic_model.``."""
    block = "descriptor.se_atten."
    fixed = {"davg": f"{block}mean", "dstd": f"{block}stddev", "out_bias": "out_bias"}
    if ours in fixed:
        return fixed[ours]
    parts = ours.split(".")
    leaf = {"weight": "matrix"}.get(parts[-1], parts[-1])
    if parts[0] == "type_embedding":
        return f"descriptor.type_embedding.embedding.embedding_net.layers.0.{leaf}"
    if parts[0] in ("embedding", "embedding_strip"):
        net = {"embedding": "filter_layers", "embedding_strip": "filter_layers_strip"}[parts[0]]
        return f"{block}{net}.networks.0.layers.{parts[1]}.{leaf}"
    if parts[0] == "attention":
        part = {"layer_norm": "attn_layer_norm"}.get(parts[2], f"attention_layer.{parts[2]}")
        return f"{block}dpa1_attention.attention_layers.{parts[1]}.{part}.{leaf}"
    if parts[1] == "layers":
        return f"fitting_net.filter_layers.networks.0.layers.{parts[2]}.{leaf}"
    return "fitting_net." + ".".join(parts[1:])


def _find(raw: RawModel, name: str) -> torch.Tensor | None:
    """The tensor of that name. DeePMD-kit writes network weights twice, under two names; the copies must agree.

    Raises:
        ModelFileError: the file was altered or damaged.
    """
    copy = name.replace(".networks.", "._networks.")
    found, other = raw.tensors.get(name), raw.tensors.get(copy)
    if copy == name or other is None:
        return found
    if found is None:
        group = name.split(".networks.")[0] + ".networks."
        return other if not any(k.startswith(group) for k in raw.tensors) else None
    if found.isfinite().all() and found.shape == other.shape and not torch.equal(found, other):
        told = f"holds two different copies of {name}"
        raise ModelFileError(raw.path, told, "it was altered or damaged; copy or write it again")
    return found


def _fetch(raw: RawModel, config: DPA1Config, ours: str, shape: tuple[int, ...]) -> torch.Tensor:
    name = deepmd_name(ours)
    found = _find(raw, name)
    if found is None:
        if ours == "out_bias" and "out_std" not in raw.tensors:
            return torch.zeros(shape, dtype=torch.float64)  # files of 2024 keep the bias in bias_atom_e alone
        raise ModelFileError(raw.path, f"lacks the tensor {name}", "write the file again with DeePMD-kit")
    tensor = found.detach().to(torch.float64)
    if not torch.isfinite(tensor).all():
        raise ModelFileError(raw.path, f"has non-finite weights (NaN or infinite) in {name}", "train or copy it again")
    if ours in ("davg", "dstd"):
        tensor = _per_type(raw, config, name, tensor)
    elif ours in ("out_bias", "fitting.bias_atom_e") and tensor.numel() == config.ntypes:
        tensor = tensor.reshape(config.ntypes)
    if tuple(tensor.shape) != shape:
        told = f"the tensor {name} has shape {tuple(found.shape)}, its options say {shape}"
        raise ModelFileError(raw.path, told, "write the file again with DeePMD-kit")
    return tensor.clone()


def _per_type(raw: RawModel, config: DPA1Config, name: str, table: torch.Tensor) -> torch.Tensor:
    expected = (config.ntypes, config.nsel, 4)
    if tuple(table.shape) != expected:
        told = f"the tensor {name} has shape {tuple(table.shape)}, its options say {expected}"
        raise ModelFileError(raw.path, told, "write the file again with DeePMD-kit")
    if (table != table[:, :1]).any():
        told = f"has statistics {name} that differ from slot to slot of sel, which DeePMD-kit never computes"
        raise ModelFileError(raw.path, told, "compute its statistics again with DeePMD-kit")
    return table[:, 0]
