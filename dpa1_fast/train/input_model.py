"""The ``model`` section of DeePMD-kit's input.json, with the defaults of the input file (not those of its classes)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..checkpoint.deepmd import PRECISIONS, foreign
from ..checkpoint.parsing import flag, integer, many, number, text
from ..config import DPA1Config, FittingConfig
from ..errors import ConfigError
from .fields import Fields
from .options import TrainingError


@dataclass(frozen=True)
class ModelInput:
    """What the section says: hyper-parameters, and what about the model is decided by data or in training.

    Attributes:
        config: ``sel`` and ``type_map`` are placeholders where ``sel_auto`` and ``type_map_auto`` say so.
        For the others see ``Options``.
    """

    config: DPA1Config
    sel_auto: float | None
    type_map_auto: bool
    statistics_batches: int
    protection: float
    rcond: float | None
    preset_bias: tuple[float | None, ...]
    frozen: tuple[str, ...]


def read_model(f: Fields) -> ModelInput:
    """The model that the section describes.

    Raises:
        TrainingError: an option that is wrong or not supported, by its name.
    """
    d, fit = f.section("descriptor"), f.section("fitting_net", {})
    _refuse_others(f, d, fit)
    type_map = f.take("type_map", many(text), None)
    for key in ("use_srtab", "modifier", "compress", "spin", "type_embedding"):
        f.only(key, None)
    f.only("srtab_add_bias", True)
    f.only("type", "standard")
    f.without_effect("smin_alpha", "sw_rmin", "sw_rmax", "finetune_head")  # of use_srtab, and of dp's own command line
    kind = d.take("type", text).lower()
    v2 = kind == "se_atten_v2"
    factor, sel = d.take("sel", _sel, (1.1, (1,)))
    frozen = [] if d.take("trainable", flag, True) else ["type_embedding", "embedding", "attention"]
    if not d.take("trainable_ln", flag, True):
        frozen.append("attention.*.layer_norm")
    d.only("attn_mask", False, why="is not implemented in DeePMD-kit either; remove it")
    d.only("lmax", None, 0, 1)
    d.without_effect("seed")  # all numbers are drawn from training.seed
    exclude = d.take("exclude_types", many(_pair), ())
    mode, smooth = "strip", True
    if not v2:
        stripped = d.take("stripped_type_embedding", flag, None)
        mode = d.take("tebd_input_mode", text, "concat")
        mode = mode if stripped is None else "strip" if stripped else "concat"
        smooth = d.take("smooth_type_embedding", flag, False, "smooth_type_embdding")
    fitting, rcond, frozen_fitting = _fitting(fit)
    precision = PRECISIONS.get(p := d.take("precision", text, "default"), p)
    try:
        config = DPA1Config(
            type_map=type_map or ("H",),
            rcut=d.take("rcut", number, 6.0),
            rcut_smth=d.take("rcut_smth", number, 0.5),
            sel=sel,
            neuron=d.take("neuron", many(integer), (10, 20, 40)),
            axis_neuron=d.take("axis_neuron", integer, 4, "n_axis_neuron"),
            tebd_dim=d.take("tebd_dim", integer, 8),
            type_one_side=d.take("type_one_side", flag, False),
            set_davg_zero=d.take("set_davg_zero", flag, not v2),
            attn=d.take("attn", integer, 128),
            attn_layer=d.take("attn_layer", integer, 2),
            attn_dotr=d.take("attn_dotr", flag, True),
            normalize=d.take("normalize", flag, True),
            scaling_factor=d.take("scaling_factor", number, 1.0),
            temperature=d.take("temperature", number, None),
            activation_function=d.take("activation_function", text, "tanh"),
            resnet_dt=d.take("resnet_dt", flag, False),
            exclude_types=exclude,
            env_protection=d.take("env_protection", number, 0.0),
            ln_eps=d.take("ln_eps", number, None) or 1e-5,
            trainable_ln="attention.*.layer_norm" not in frozen,
            use_econf_tebd=d.take("use_econf_tebd", flag, False),
            use_tebd_bias=d.take("use_tebd_bias", flag, False),
            concat_output_tebd=d.take("concat_output_tebd", flag, True),
            precision=precision,
            fitting=fitting,
            pair_exclude_types=f.take("pair_exclude_types", many(_pair), ()),
            atom_exclude_types=f.take("atom_exclude_types", many(integer), ()),
            tebd_input_mode=mode,
            smooth_type_embedding=smooth,
        )
    except ConfigError as error:
        raise TrainingError(f"{f.path}: {error}") from None
    out = ModelInput(
        config=config,
        sel_auto=factor,
        type_map_auto=type_map is None,
        statistics_batches=f.take("data_stat_nbatch", integer, 10),
        protection=f.take("data_stat_protect", number, 1e-2),
        rcond=rcond,
        preset_bias=_preset(f.section("preset_out_bias", {}), config.ntypes),
        frozen=(*frozen, *frozen_fitting),
    )
    f.without_effect("data_bias_nsample")  # of finetune and change-bias
    d.done()
    f.done()
    return out


def _refuse_others(f: Fields, d: Fields, fit: Fields) -> None:
    """Refuses models of another kind by the name that their authors would use."""
    what = foreign({**f.values, "descriptor": d.values, "fitting_net": fit.values})
    if what:
        raise TrainingError(f"{f.path}: the model {what}; energy models with se_atten, dpa1 or se_atten_v2 are trained")


def _fitting(f: Fields) -> tuple[FittingConfig, float | None, tuple[str, ...]]:
    f.only("type", "ener")
    f.only("layer_name", None)
    f.only("tot_ener_zero", False)
    f.only("spin", None)
    f.only("mixed_types", True)
    f.without_effect("seed")
    neuron = f.take("neuron", many(integer), (120, 120, 120), "n_neuron")
    trained = f.take("trainable", _flags, (True,))
    if len(trained) not in (1, len(neuron) + 1):
        raise f.error("trainable", f"lists {len(trained)} layers; there are {len(neuron) + 1}")
    trained = trained * (len(neuron) + 1) if len(trained) == 1 else trained
    frozen = tuple(f"fitting.layers.{k}." for k, yes in enumerate(trained) if not yes)
    try:
        config = FittingConfig(
            neuron=neuron,
            resnet_dt=f.take("resnet_dt", flag, True),
            activation_function=f.take("activation_function", text, "tanh"),
            precision=PRECISIONS.get(p := f.take("precision", text, "default"), p),
            numb_fparam=f.take("numb_fparam", integer, 0),
            numb_aparam=f.take("numb_aparam", integer, 0),
            dim_case_embd=f.take("dim_case_embd", integer, 0),
            default_fparam=f.take("default_fparam", many(number), None),
            use_aparam_as_mask=f.take("use_aparam_as_mask", flag, False),
            atom_ener=f.take("atom_ener", many(_energy), ()),
        )
    except ConfigError as error:
        raise TrainingError(f"{f.path}: {error}") from None
    rcond = f.take("rcond", number, None)
    f.done()
    return config, rcond, frozen


def _preset(f: Fields, ntypes: int) -> tuple[float | None, ...]:
    found: tuple[float | None, ...] = f.take("energy", many(_energy), ())
    f.done()
    if found and len(found) != ntypes:
        raise f.error("energy", f"lists {len(found)} energies for {ntypes} types")
    return found


def _sel(value: Any) -> tuple[float | None, tuple[int, ...]]:
    if isinstance(value, str):
        word, _, factor = value.partition(":")
        if word != "auto":
            raise ValueError("a number, a list of numbers, auto or auto:FACTOR")
        return (float(factor) if factor else 1.1), (1,)
    return None, many(integer)(value) if isinstance(value, list) else (integer(value),)


def _flags(value: Any) -> tuple[bool, ...]:
    return many(flag)(value) if isinstance(value, list) else (flag(value),)


def _energy(value: Any) -> float | None:
    inner = value[0] if isinstance(value, list) and len(value) == 1 else value
    return None if inner is None else number(inner)


def _pair(value: Any) -> tuple[int, int]:
    a, b = many(integer)(value)
    return a, b
