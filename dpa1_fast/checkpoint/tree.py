"""DeePMD-kit's portable model: one tree, written as ``.dp`` (HDF5), ``.yaml``, or JSON inside ``.pt2`` and ``.pte``."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import ModelFileError
from .pt import choose_head
from .raw import RawModel

KINDS = {
    "dp": "DeePMD-kit portable model (.dp)",
    "yaml": "DeePMD-kit portable model (.yaml)",
    "exported": "DeePMD-kit exported model (.pt2, .pte)",
}
Arrays = dict[str, torch.Tensor]


def read(path: Path, kind: str, head: str | None) -> RawModel:
    """Reads the tree and renames its arrays to DeePMD-kit's PyTorch names.

    Raises:
        ModelFileError: damaged, or not DeePMD-kit's.
    """
    try:
        tree = {"dp": _hdf5, "yaml": _yaml, "exported": _zip}[kind](path)
    except Exception as error:  # a damaged file can fail in any way; each means the same to the user
        what = f"is damaged or cut short ({type(error).__name__})"
        raise ModelFileError(path, what, "copy or download it again") from None
    model = tree.get("model") if isinstance(tree, dict) else None
    if not isinstance(model, dict):
        raise ModelFileError(path, "is not a DeePMD-kit model (no model in it)", "give a model of DeePMD-kit")
    if "model_dict" in model:
        model = model["model_dict"][choose_head(path, model, head)]
    elif head not in (None, "Default"):
        raise ModelFileError(path, f"has one head only, no head {head!r}", "leave out head=")
    try:
        return RawModel(path, KINDS[kind], _params(model), _arrays(model))
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        what = f"is not a complete DeePMD-kit model ({type(error).__name__}: {error})"
        raise ModelFileError(path, what, "write it again with DeePMD-kit") from None


# --- the three containers -----------------------------------------------------------------------------------------


def _hdf5(path: Path) -> Any:
    import h5py

    with h5py.File(path, "r") as file:
        return _resolve(json.loads(file.attrs["json"]), lambda name: np.asarray(file[name]))


def _yaml(path: Path) -> Any:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return _resolve(yaml.load(path.read_text(encoding="utf-8"), loader), _plain_array)  # noqa: S506 (a safe loader)


def _zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.rsplit("/", 1)[-1] == "model.json")
        return _resolve(json.loads(archive.read(name)), _plain_array)


def _plain_array(value: Any) -> Any:
    return np.asarray(value["value"], dtype=value["dtype"])


def _resolve(node: Any, fetch: Any) -> Any:
    """Replaces what stands below ``@variables`` by arrays, all through the tree."""
    if isinstance(node, list):
        return [_resolve(x, fetch) for x in node]
    if not isinstance(node, dict):
        return node
    out = {k: _resolve(v, fetch) for k, v in node.items() if k != "@variables"}
    if "@variables" in node:
        out["@variables"] = {k: None if v is None else fetch(v) for k, v in node["@variables"].items()}
    return out


# --- hyper-parameters ---------------------------------------------------------------------------------------------


def _params(model: dict[str, Any]) -> dict[str, Any]:
    params = {k: v for k, v in model.items() if k in ("type", "type_map", "pair_exclude_types", "atom_exclude_types")}
    if "backbone_model" in model or model.get("spin") is not None:
        params["spin"] = model.get("spin", True)
    if "models" in model:
        params["models"] = True
    descriptor, fitting = model.get("descriptor"), model.get("fitting")
    if isinstance(descriptor, dict):
        params["descriptor"] = {k: v for k, v in descriptor.items() if not isinstance(v, dict)}
        if descriptor.get("env_mat", {}).get("use_exp_switch"):
            params["descriptor"]["use_exp_switch"] = True
        if descriptor.get("@version", 2) == 1 and "use_tebd_bias" not in descriptor:
            params["descriptor"]["use_tebd_bias"] = True
    if isinstance(fitting, dict):
        params["fitting_net"] = {k: v for k, v in fitting.items() if not isinstance(v, dict)}
    return params


# --- arrays -------------------------------------------------------------------------------------------------------


def _arrays(model: dict[str, Any]) -> Arrays:
    out: Arrays = {}
    descriptor, fitting = model.get("descriptor"), model.get("fitting")
    if not isinstance(descriptor, dict) or not isinstance(fitting, dict) or "attention_layers" not in descriptor:
        return out  # not DPA-1: the hyper-parameters will say so
    _put(out, "", model.get("@variables", {}))
    block = "descriptor.se_atten."
    names = {"davg": "mean", "dstd": "stddev"}
    _put(out, block, {names.get(k, k): v for k, v in descriptor["@variables"].items()})
    _network(out, f"{block}filter_layers.", descriptor["embeddings"])
    if "embeddings_strip" in descriptor:
        _network(out, f"{block}filter_layers_strip.", descriptor["embeddings_strip"])
    for n, layer in enumerate(descriptor["attention_layers"]["attention_layers"]):
        prefix = f"{block}dpa1_attention.attention_layers.{n}."
        for part in ("in_proj", "out_proj"):
            _layer(out, f"{prefix}attention_layer.{part}.", layer["attention_layer"][part])
        _layer(out, f"{prefix}attn_layer_norm.", layer["attn_layer_norm"])
    for n, layer in enumerate(descriptor["type_embedding"]["embedding"]["layers"]):
        _layer(out, f"descriptor.type_embedding.embedding.embedding_net.layers.{n}.", layer)
    _put(out, "fitting_net.", fitting["@variables"])
    _network(out, "fitting_net.filter_layers.", fitting["nets"])
    return out


def _network(out: Arrays, prefix: str, collection: dict[str, Any]) -> None:
    for n, net in enumerate(collection["networks"]):
        for k, layer in enumerate(net["layers"] if net else []):
            _layer(out, f"{prefix}networks.{n}.layers.{k}.", layer)


def _layer(out: Arrays, prefix: str, layer: dict[str, Any]) -> None:
    names = {"w": "matrix", "b": "bias", "idt": "idt"}
    _put(out, prefix, {names[k]: v for k, v in layer["@variables"].items()})


def _put(out: Arrays, prefix: str, arrays: dict[str, Any]) -> None:
    for name, array in arrays.items():
        if array is not None:
            out[prefix + name] = torch.from_numpy(np.ascontiguousarray(array))
