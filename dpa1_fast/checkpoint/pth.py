"""DeePMD-kit's frozen model, ``.pth``: a TorchScript archive, read without compiling or running any of its code.

The archive's ``data.pkl`` lists every module with its attributes; ``inert`` reads it as plain data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ModelFileError
from . import archive, torch_file
from .inert import Box, TensorRecord
from .parsing import REWRITE, Section, flag, many, parsing, text
from .raw import RawModel

KIND = "DeePMD-kit frozen model (.pth)"
OTHER = "give a model of DeePMD-kit"
MODULES, DEPTH = 20_000, 30
"""Most modules that a frozen model may hold, and how deep they may be nested (DeePMD-kit: 200 and 10)."""

# What the descriptor block calls an option, where input.json has another name for it.
BLOCK = {
    "rcut": "rcut", "rcut_smth": "rcut_smth", "sel": "sel", "neuron": "neuron", "axis_neuron": "axis_neuron",
    "lmax": "lmax", "tebd_dim": "tebd_dim", "tebd_input_mode": "tebd_input_mode", "attn_dim": "attn",
    "attn_layer": "attn_layer", "attn_dotr": "attn_dotr", "attn_mask": "attn_mask",
    "activation_function": "activation_function", "resnet_dt": "resnet_dt", "scaling_factor": "scaling_factor",
    "normalize": "normalize", "temperature": "temperature", "smooth": "smooth_type_embedding",
    "type_one_side": "type_one_side", "env_protection": "env_protection", "ln_eps": "ln_eps",
    "exclude_types": "exclude_types", "set_davg_zero": "set_davg_zero",
}  # fmt: skip
DESCRIPTOR = ("use_econf_tebd", "use_tebd_bias", "concat_output_tebd")
FITTING = (
    "neuron", "resnet_dt", "numb_fparam", "numb_aparam", "dim_case_embd", "default_fparam", "activation_function",
    "precision", "use_aparam_as_mask", "exclude_types", "mixed_types",
)  # fmt: skip


@contextmanager
def opened(path: Path, head: str | None) -> Iterator[RawModel]:
    """Opens a frozen model without running it.

    Raises:
        ModelFileError: damaged, or not DeePMD-kit's.
    """
    if head not in (None, "Default"):
        raise ModelFileError(path, f"is frozen and has one head only, no head {head!r}", "leave out head=")
    foreign = _composition(path)
    if foreign:
        yield RawModel(path, KIND, {"type": foreign}, {}, 0)
        return
    with torch_file.opened_archive(path) as file:
        root = file.content
        model = root.attributes.get("atomic_model") if isinstance(root, Box) else None
        if not isinstance(root, Box) or not isinstance(model, Box):
            raise ModelFileError(path, "is a TorchScript file, but not a DeePMD-kit model", OTHER)
        script = Section(path, "", root.attributes).take("model_def_script", text, "{}") or "{}"
        with parsing(path, "a frozen model, at its model_def_script"):
            told = json.loads(script)
        params = _params(Section(path, "model_def_script", told), root, model)
        records = _tensors(path, model)
        yield RawModel(path, KIND, params, {k: file.stored(v) for k, v in records.items()}, file.nbytes)


# Models that are more than one descriptor and one fitting net, by the source file that defines them.
COMPOSITIONS = {"spin_model.py": "spin", "dp_zbl_model.py": "zbl", "dp_linear_model.py": "linear_ener"}


def _composition(path: Path) -> str | None:
    """The type of a composed model, told from the archive's table of contents alone."""
    with archive.opened(path) as file:
        sources = {name.rsplit("/", 1)[-1] for name in file.names}
        modifier = file.ending("data_modifier.pth")
        if modifier is not None and file.size(modifier):
            raise ModelFileError(path, "carries a data modifier", "DPA-1 energy models without one are served")
    return next((kind for source, kind in COMPOSITIONS.items() if source in sources), None)


def _tensors(path: Path, model: Box) -> dict[str, TensorRecord]:
    """All tensors of a module and of those below it, by their dotted names."""
    found: dict[str, TensorRecord] = {}
    todo = [("", model, 0)]
    visited = 0
    while todo:
        prefix, box, depth = todo.pop()
        visited += 1
        if visited > MODULES or depth > DEPTH:
            raise ModelFileError(path, "holds modules nested without end", "no model does; do not use it")
        for name, value in reversed(box.attributes.items()):
            if isinstance(value, TensorRecord):
                found[f"{prefix}{name}"] = value
            elif isinstance(value, Box):
                todo.append((f"{prefix}{name}.", value, depth + 1))
    return found


def _params(script: Section, root: Box, model: Box) -> dict[str, Any]:
    """The script's hyper-parameters, overruled by the attributes that the frozen code would really use."""
    path, params = script.path, dict(script.values)
    if "type" not in params and root.class_name not in ("EnergyModel", "DPEnergyModel"):
        params["type"] = root.class_name
    params["type_map"] = model.attributes.get("type_map", params.get("type_map"))
    descriptor, fitting = model.attributes.get("descriptor"), model.attributes.get("fitting_net")
    if isinstance(descriptor, Box) and descriptor.class_name in ("DescrptDPA1", "DescrptSeAttenV2"):
        inner = descriptor.attributes.get("se_atten")
        if not isinstance(inner, Box):
            raise ModelFileError(path, "is not a complete DeePMD-kit model: no se_atten in its descriptor", REWRITE)
        block = inner.attributes
        told: dict[str, Any] = {"type": "se_atten_v2" if "V2" in descriptor.class_name else "se_atten"}
        told.update({ours: block[theirs] for theirs, ours in BLOCK.items() if theirs in block})
        told.update({k: descriptor.attributes[k] for k in DESCRIPTOR if k in descriptor.attributes})
        params["descriptor"] = {**_values(script, "descriptor"), **told}
    elif isinstance(descriptor, Box):
        params.setdefault("descriptor", {"type": descriptor.class_name})
    if isinstance(fitting, Box):
        told = {k: fitting.attributes[k] for k in FITTING if k in fitting.attributes}
        if "fitting_net" not in params:
            told["type"] = "ener" if fitting.class_name == "EnergyFittingNet" else fitting.class_name
        if fitting.attributes.get("remove_vaccum_contribution") is not None:
            removed = Section(path, "fitting_net", fitting.attributes).take("remove_vaccum_contribution", many(flag))
            told["atom_ener"] = [0.0 if on else None for on in removed]
        params["fitting_net"] = {**_values(script, "fitting_net"), **told}
    return params


def _values(script: Section, key: str) -> dict[str, Any]:
    return script.section(key).values if key in script else {}
