"""DeePMD-kit's frozen model, ``.pth``: a TorchScript archive, read without compiling or running any of its code.

The archive's ``data.pkl`` lists every module with its attributes. It is unpickled with a loader that builds inert
boxes in place of every class and knows how to make tensors and containers, nothing else.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..errors import ModelFileError
from .raw import RawModel

KIND = "DeePMD-kit frozen model (.pth)"

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}

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


class Box:
    """An object of the archive: its class's name and its attributes, nothing that runs."""

    class_name = ""

    def __init__(self, *_: Any) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.attributes = dict(state) if isinstance(state, dict) else {}


class InertUnpickler(pickle.Unpickler):
    """Unpickles a TorchScript archive into boxes, tensors and containers; any other name is refused."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}/data.pkl")))
        self.archive, self.root = archive, root
        self.storages: dict[str, torch.Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """An inert stand-in for a name in the pickle, or a refusal."""
        if module.startswith("__torch__"):
            return type("Box", (Box,), {"class_name": name})
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("collections", "OrderedDict"): OrderedDict,
            ("torch.jit._pickle", "restore_type_tag"): lambda value, _tag: value,
        }
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return list
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return known[module, name]

    def persistent_load(self, pid: Any) -> torch.Tensor:
        """The numbers of one storage, read from the archive."""
        _, dtype, key, _, numel = pid
        if key not in self.storages:
            data = bytearray(self.archive.read(f"{self.root}/data/{key}"))
            empty = torch.empty(0, dtype=dtype)
            self.storages[key] = torch.frombuffer(data, dtype=dtype) if numel else empty
        return self.storages[key]


def _tensor(storage: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Any:
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if math.prod(size) else -1
    if last >= len(storage) or offset < 0 or min(stride, default=0) < 0:
        raise pickle.UnpicklingError("a tensor reaches past its storage")
    return storage.as_strided(size, stride, offset) if math.prod(size) else torch.empty(size, dtype=storage.dtype)


def read(path: Path, head: str | None) -> RawModel:
    """Reads a frozen model without running it.

    Raises:
        ModelFileError: damaged, or not DeePMD-kit's.
    """
    if head not in (None, "Default"):
        raise ModelFileError(path, f"is frozen and has one head only, no head {head!r}", "leave out head=")
    foreign = _foreign(path)
    if foreign:
        return RawModel(path, KIND, {"type": foreign}, {})
    root = _load(path)
    model_box = root.attributes.get("atomic_model")
    if not isinstance(model_box, Box):
        raise ModelFileError(path, "is a TorchScript file, but not a DeePMD-kit model", "give a model of DeePMD-kit")
    script = root.attributes.get("model_def_script") or "{}"
    tensors: dict[str, torch.Tensor] = {}
    _collect(model_box, "", tensors)
    return RawModel(path, KIND, _params(json.loads(script), root, model_box), tensors)


# Models that are more than one descriptor and one fitting net, by the source file that defines them.
COMPOSITIONS = {"spin_model.py": "spin", "dp_zbl_model.py": "zbl", "dp_linear_model.py": "linear_ener"}


def _foreign(path: Path) -> str | None:
    """The type of a composed model, told from the archive's table of contents alone."""
    with zipfile.ZipFile(path) as archive:
        sources = {name.rsplit("/", 1)[-1] for name in archive.namelist()}
    return next((kind for source, kind in COMPOSITIONS.items() if source in sources), None)


def _load(path: Path) -> Box:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            folder = next(n for n in names if n.endswith("/data.pkl"))[: -len("/data.pkl")]
            if f"{folder}/byteorder" in names and archive.read(f"{folder}/byteorder") != b"little":
                raise ModelFileError(path, "was written on a big-endian machine", "freeze it again on a common one")
            modifiers = [n for n in names if n.endswith("extra/data_modifier.pth")]
            if any(archive.getinfo(n).file_size for n in modifiers):
                raise ModelFileError(path, "carries a data modifier", "DPA-1 energy models without one are served")
            root = InertUnpickler(archive, folder).load()
    except ModelFileError:
        raise
    except Exception as error:  # a damaged archive can fail in any way; each means the same to the user
        raise ModelFileError(
            path, f"is damaged or not a frozen model ({type(error).__name__})", "copy or download it again"
        ) from None
    if not isinstance(root, Box):
        raise ModelFileError(path, "is a TorchScript file, but not a model", "give a model of DeePMD-kit")
    return root


def _collect(box: Box, prefix: str, out: dict[str, torch.Tensor]) -> None:
    for name, value in box.attributes.items():
        if isinstance(value, torch.Tensor):
            out[prefix + name] = value
        elif isinstance(value, Box):
            _collect(value, f"{prefix}{name}.", out)


def _params(script: dict[str, Any], root: Box, model: Box) -> dict[str, Any]:
    """The script's hyper-parameters, overruled by the attributes that the frozen code would really use."""
    params = dict(script)
    if "type" not in params and root.class_name not in ("EnergyModel", "DPEnergyModel"):
        params["type"] = root.class_name
    params["type_map"] = model.attributes.get("type_map", params.get("type_map"))
    descriptor, fitting = model.attributes.get("descriptor"), model.attributes.get("fitting_net")
    if isinstance(descriptor, Box) and descriptor.class_name in ("DescrptDPA1", "DescrptSeAttenV2"):
        block = descriptor.attributes["se_atten"].attributes
        told: dict[str, Any] = {"type": "se_atten_v2" if "V2" in descriptor.class_name else "se_atten"}
        told.update({ours: block[theirs] for theirs, ours in BLOCK.items() if theirs in block})
        told.update({k: descriptor.attributes[k] for k in DESCRIPTOR if k in descriptor.attributes})
        params["descriptor"] = {**params.get("descriptor", {}), **told}
    elif isinstance(descriptor, Box):
        params.setdefault("descriptor", {"type": descriptor.class_name})
    if isinstance(fitting, Box):
        told = {k: fitting.attributes[k] for k in FITTING if k in fitting.attributes}
        if "fitting_net" not in params:
            told["type"] = "ener" if fitting.class_name == "EnergyFittingNet" else fitting.class_name
        vacuum = fitting.attributes.get("remove_vaccum_contribution")
        if vacuum is not None:
            told["atom_ener"] = [0.0 if removed else None for removed in vacuum]
        params["fitting_net"] = {**params.get("fitting_net", {}), **told}
    return params
