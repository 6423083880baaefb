"""From DeePMD-kit's names to ours, and the refusal of everything that is not a DPA-1 energy model."""

from __future__ import annotations

from typing import Any

import torch

from ..config import DPA1Config, FittingConfig
from ..errors import ConfigError, ModelFileError
from ..model import DPA1
from .build import build, wrong_shape
from .parsing import REWRITE, Section, clipped, flag, integer, many, number, shown, text
from .raw import RawModel, Stored

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

    def find(ours: str) -> tuple[str, Stored | None]:
        return deepmd_name(ours), _stored(raw, config, ours)

    return build(raw.path, config, raw.tensors.values(), raw.nbytes, find, lambda ours, t: _ours(raw, config, ours, t))


# --- what is refused ----------------------------------------------------------------------------------------------


def refuse_others(raw: RawModel) -> None:
    """Refuses models of another kind by the name that their authors would use.

    Raises:
        ModelFileError: one line that says what the file is.
    """
    what = foreign(raw.params)
    if what:
        raise ModelFileError(raw.path, what, SERVED)


def foreign(params: dict[str, Any]) -> str | None:
    """What a model is that is no DPA-1 energy model, in words; None for one that is."""
    kind = _word(params.get("type") or "standard")
    descriptor, fitting = _mapping(params.get("descriptor")), _mapping(params.get("fitting_net"))
    name = _word(descriptor.get("type", ""))
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
    fit = _word(fitting.get("type", "ener"))
    if fit not in ("ener", "energyfittingnet"):
        return f"fits {fit}: it is DPA-1, but not an energy model"
    if descriptor.get("lmax") not in (None, 0, 1):
        return f"uses lmax = {shown(descriptor['lmax'])}; DPA-1 here has lmax = 1 only"
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
    bridge = _word(params.get("bridging_method") or "none")
    return None if bridge == "none" else f"is bridged with another potential at short range ({bridge})"


def _word(value: Any) -> str:
    return clipped(value if isinstance(value, str) else shown(value), 60).lower()


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


# --- hyper-parameters ---------------------------------------------------------------------------------------------


def read_config(raw: RawModel) -> DPA1Config:
    """Our configuration. What a file leaves out has the default of DeePMD-kit's PyTorch constructor.

    Raises:
        ModelFileError: naming the option that is missing or wrong.
    """
    params = Section(raw.path, "", raw.params)
    d = params.section("descriptor")
    f = params.maybe("fitting_net") or Section(raw.path, "fitting_net", {})
    mode = d.take("tebd_input_mode", text, "concat")
    if "stripped_type_embedding" in d:
        mode = "strip" if d.take("stripped_type_embedding", flag) else "concat"
    smooth = d.take("smooth_type_embedding", flag, True)
    if d.take("type", text).lower() == "se_atten_v2":
        mode, smooth = "strip", True
    # Files older than the option: the tensor tells.
    bias = d.take("use_tebd_bias", flag, deepmd_name("type_embedding.bias") in raw.tensors)
    given = {key: d.take(key, kind) for key, kind in _OPTIONS.items() if key in d}
    try:
        return DPA1Config(
            type_map=params.take("type_map", many(text)),
            rcut=d.take("rcut", number),
            rcut_smth=d.take("rcut_smth", number),
            sel=d.take("sel", _one_or_many),
            tebd_input_mode=mode,
            smooth_type_embedding=smooth,
            use_tebd_bias=bias,
            precision=d.take("precision", _precision, "float64"),
            exclude_types=d.take("exclude_types", many(_pair), ()),
            pair_exclude_types=params.take("pair_exclude_types", many(_pair), ()),
            atom_exclude_types=params.take("atom_exclude_types", many(integer), ()),
            fitting=_fitting(f),
            **given,
        )
    except ConfigError as error:
        raise ModelFileError(raw.path, f"has a bad option: {error}", REWRITE) from None


_OPTIONS: dict[str, Any] = {
    "neuron": many(integer), "axis_neuron": integer, "tebd_dim": integer, "type_one_side": flag, "set_davg_zero": flag,
    "attn": integer, "attn_layer": integer, "attn_dotr": flag, "normalize": flag, "scaling_factor": number,
    "activation_function": text, "resnet_dt": flag, "env_protection": number, "trainable_ln": flag,
    "use_econf_tebd": flag, "concat_output_tebd": flag, "temperature": number, "ln_eps": number,
}  # fmt: skip


def _fitting(f: Section) -> FittingConfig:
    return FittingConfig(
        neuron=f.take("neuron", many(integer), (128, 128, 128)),
        resnet_dt=f.take("resnet_dt", flag, True),
        activation_function=f.take("activation_function", text, "tanh"),
        precision=f.take("precision", _precision, "float64"),
        numb_fparam=f.take("numb_fparam", integer, 0),
        numb_aparam=f.take("numb_aparam", integer, 0),
        dim_case_embd=f.take("dim_case_embd", integer, 0),
        default_fparam=f.take("default_fparam", many(number)) if "default_fparam" in f else None,
        use_aparam_as_mask=f.take("use_aparam_as_mask", flag, False),
        atom_ener=f.take("atom_ener", many(_vacuum), ()),
        exclude_types=f.take("exclude_types", many(integer), ()),
    )


def _vacuum(value: Any) -> float | None:
    inner = value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value
    return None if inner is None else number(inner)


def _one_or_many(value: Any) -> tuple[int, ...]:
    return many(integer)(value) if isinstance(value, (list, tuple)) else (integer(value),)


def _precision(value: Any) -> str:
    return PRECISIONS.get(text(value), text(value))


def _pair(value: Any) -> tuple[int, int]:
    pair = many(integer)(value)
    if len(pair) != 2:
        raise ValueError("pairs of types")
    return pair[0], pair[1]


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


def _stored(raw: RawModel, config: DPA1Config, ours: str) -> Stored | None:
    """The tensor of ours in the file, its shape checked as far as the file declares it; None: zeros by default."""
    name = deepmd_name(ours)
    found = _agreeing(raw, name)
    if found is None:
        if ours == "out_bias" and "out_std" not in raw.tensors:
            return None  # files of 2024 keep the bias in bias_atom_e alone
        raise ModelFileError(raw.path, f"lacks the tensor {name}", "write the file again with DeePMD-kit")
    slots = (config.ntypes, config.nsel, 4)
    if ours in ("davg", "dstd") and found.shape != slots:
        raise wrong_shape(raw.path, name, found.shape, slots)
    return found


def _agreeing(raw: RawModel, name: str) -> Stored | None:
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
    if found.shape == other.shape:
        one, two = found.read(), other.read()
        if one.isfinite().all() and not torch.equal(one, two):
            told = f"holds two different copies of {name}"
            raise ModelFileError(raw.path, told, "it was altered or damaged; copy or write it again")
    return found


def _ours(raw: RawModel, config: DPA1Config, ours: str, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the file as ours: one row a type of statistics, biases without their last dimension."""
    if ours in ("out_bias", "fitting.bias_atom_e") and tensor.numel() == config.ntypes:
        return tensor.reshape(config.ntypes)
    if ours not in ("davg", "dstd"):
        return tensor
    if (tensor != tensor[:, :1]).any():
        told = (
            f"has statistics {deepmd_name(ours)} that differ from slot to slot of sel, which DeePMD-kit never computes"
        )
        raise ModelFileError(raw.path, told, "compute its statistics again with DeePMD-kit")
    return tensor[:, 0]
