"""A configuration under the names of DeePMD-kit's input file."""

from __future__ import annotations

from typing import Any

from ..config import DPA1Config

DESCRIPTOR = (
    "rcut", "rcut_smth", "axis_neuron", "tebd_dim", "tebd_input_mode", "type_one_side", "smooth_type_embedding",
    "set_davg_zero", "attn", "attn_layer", "attn_dotr", "normalize", "scaling_factor", "temperature",
    "activation_function", "resnet_dt", "env_protection", "ln_eps", "trainable_ln", "use_econf_tebd", "use_tebd_bias",
    "concat_output_tebd", "precision",
)  # fmt: skip
FITTING = (
    "resnet_dt", "activation_function", "precision", "numb_fparam", "numb_aparam", "dim_case_embd",
    "use_aparam_as_mask",
)  # fmt: skip


def input_script(config: DPA1Config) -> dict[str, Any]:
    """The ``model`` section of the input file that makes a model of this configuration, defaults included."""
    c, f = config, config.fitting
    fitting: dict[str, Any] = {"type": "ener", "neuron": list(f.neuron), **{name: getattr(f, name) for name in FITTING}}
    if f.default_fparam is not None:
        fitting["default_fparam"] = list(f.default_fparam)
    if f.atom_ener:
        fitting["atom_ener"] = list(f.atom_ener)
    descriptor = {name: getattr(c, name) for name in DESCRIPTOR}
    lists = {"sel": list(c.sel), "neuron": list(c.neuron), "exclude_types": [list(pair) for pair in c.exclude_types]}
    return {
        "type_map": list(c.type_map),
        "descriptor": {"type": "dpa1", **descriptor, **lists},
        "fitting_net": fitting,
        "atom_exclude_types": list(c.atom_exclude_types),
        "pair_exclude_types": [list(pair) for pair in c.pair_exclude_types],
    }
