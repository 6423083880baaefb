"""Writes DeePMD-kit's portable ``.dp`` (or ``.yaml``), so that a model made here runs there."""

from __future__ import annotations

import datetime
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import __version__
from ..model import DPA1, AttentionParameters, LayerParameters, Network

Array = NDArray[Any]


def encode(model: DPA1, suffix: str) -> bytes:
    """A file's bytes as DeePMD-kit 3.2 reads them; ``suffix`` chooses ``.dp`` (HDF5) or ``.yaml``.

    Files are made in memory: HDF5's library does not survive a disk that fills up.
    """
    tree = {
        "software": "dpa1-fast",
        "version": __version__,
        "time": str(datetime.datetime.now(tz=datetime.UTC)),
        "backend": "dpmodel",
        "model": model_tree(model),
        "model_def_script": {},
        "@variables": {},
    }
    return _yaml(tree) if suffix in (".yaml", ".yml") else _hdf5(tree)


def _hdf5(tree: dict[str, Any]) -> bytes:
    import h5py

    whole = io.BytesIO()
    with h5py.File(whole, "w") as file:
        count = iter(range(1_000_000))

        def store(array: Array) -> str:
            return str(file.create_dataset(f"variable_{next(count):04d}", data=array).name)

        file.attrs["json"] = json.dumps(_stored(tree, store), separators=(",", ":"))
    return whole.getvalue()


def _yaml(tree: dict[str, Any]) -> bytes:
    import yaml

    def inline(array: Array) -> dict[str, Any]:
        head = {"@class": "np.ndarray", "@is_variable": True, "@version": 1}
        return {**head, "dtype": array.dtype.name, "value": array.tolist()}

    text: str = yaml.dump(_stored(tree, inline), None, getattr(yaml, "CSafeDumper", yaml.SafeDumper))
    return text.encode()


def _stored(node: Any, store: Callable[[Array], Any]) -> Any:
    if isinstance(node, dict):
        return {k: _stored(v, store) for k, v in node.items()}
    if isinstance(node, (list, tuple)):
        return [_stored(x, store) for x in node]
    return store(node) if isinstance(node, np.ndarray) else node


# --- the tree -----------------------------------------------------------------------------------------------------


def model_tree(model: DPA1) -> dict[str, Any]:
    """The model as DeePMD-kit's tree of options and arrays."""
    c = model.config
    bias = model.out_bias.detach().cpu().numpy().reshape(1, c.ntypes, 1)
    return {
        "@class": "Model",
        "@version": 2,
        "type": "standard",
        "type_map": list(c.type_map),
        "atom_exclude_types": list(c.atom_exclude_types),
        "pair_exclude_types": [list(p) for p in c.pair_exclude_types],
        "rcond": None,
        "preset_out_bias": None,
        "@variables": {"out_bias": bias, "out_std": np.ones_like(bias)},
        "descriptor": _descriptor(model),
        "fitting": _fitting(model),
    }


def _descriptor(model: DPA1) -> dict[str, Any]:
    c = model.config
    act, dt, prec = c.activation_function, c.resnet_dt, c.precision
    same = ("rcut", "rcut_smth", "axis_neuron", "tebd_dim", "tebd_input_mode", "set_davg_zero", "attn", "attn_layer",
            "attn_dotr", "activation_function", "resnet_dt", "scaling_factor", "normalize", "temperature",
            "trainable_ln", "ln_eps", "smooth_type_embedding", "type_one_side", "concat_output_tebd",
            "use_econf_tebd", "use_tebd_bias", "env_protection")  # fmt: skip
    strip = model.embedding_strip is not None
    per_slot = [_array(x.unsqueeze(1).expand(-1, c.nsel, -1), prec) for x in (model.davg, model.dstd)]
    out = {
        "@class": "Descriptor",
        "@version": 2,
        "type": "dpa1",
        **{k: getattr(c, k) for k in same},
        "sel": list(c.sel),
        "ntypes": c.ntypes,
        "neuron": list(c.neuron),
        "attn_mask": False,
        "type_map": list(c.type_map),
        "precision": prec,
        "exclude_types": [list(p) for p in c.exclude_types],
        "trainable": True,
        "spin": None,
        "env_mat": {
            "rcut": c.rcut,
            "rcut_smth": c.rcut_smth,
            "protection": c.env_protection,
            "use_exp_switch": False,
        },
        "embeddings": _collection(c.ntypes, "embedding_network", _embedding(model.embedding, act, dt, prec)),
        "attention_layers": _attention(model),
        "type_embedding": _type_embedding(model),
        "@variables": {"davg": per_slot[0], "dstd": per_slot[1]},
    }
    if strip:
        assert model.embedding_strip is not None
        net = _embedding(model.embedding_strip, act, dt, prec)
        out["embeddings_strip"] = _collection(c.ntypes, "embedding_network", net)
    return out


def _array(tensor: torch.Tensor, precision: str) -> Array:
    kinds = {"float64": torch.float64, "float16": torch.float16}
    return tensor.detach().cpu().to(kinds.get(precision, torch.float32)).contiguous().numpy()


def _layer(layer: LayerParameters, activation: str, resnet: bool, precision: str) -> dict[str, Any]:
    w, b, idt = (None if x is None else _array(x, precision) for x in (layer.weight, layer.bias, layer.idt))
    return {
        "@class": "Layer",
        "@version": 2,
        "bias": b is not None,
        "use_timestep": idt is not None,
        "activation_function": activation,
        "resnet": resnet,
        "precision": precision,
        "trainable": True,
        "@variables": {"w": w, "b": b, "idt": idt},
    }


def _layers(layers: Sequence[LayerParameters], activation: str, precision: str) -> list[dict[str, Any]]:
    return [_layer(layer, activation, True, precision) for layer in layers]


def _collection(ntypes: int, kind: str, net: dict[str, Any]) -> dict[str, Any]:
    head = {"@class": "NetworkCollection", "@version": 1, "ndim": 0, "ntypes": ntypes}
    return {**head, "network_type": kind, "networks": [net]}


def _embedding(net: Network, activation: str, resnet_dt: bool, precision: str) -> dict[str, Any]:
    layers: list[LayerParameters] = list(net)  # type: ignore[arg-type]
    return {
        "@class": "EmbeddingNetwork",
        "@version": 2,
        "in_dim": layers[0].weight.shape[0],
        "neuron": [layer.weight.shape[1] for layer in layers],
        "activation_function": activation,
        "resnet_dt": resnet_dt,
        "bias": layers[0].bias is not None,
        "precision": precision,
        "layers": _layers(layers, activation, precision),
    }


def _attention(model: DPA1) -> dict[str, Any]:
    c = model.config
    shape = {"nnei": c.nsel, "embed_dim": c.neuron[-1], "hidden_dim": c.attn}
    options: dict[str, Any] = {"dotr": c.attn_dotr, "do_mask": False, "scaling_factor": c.scaling_factor}
    options |= {"normalize": c.normalize, "temperature": c.temperature, "precision": c.precision}
    norm = {"trainable_ln": c.trainable_ln, "ln_eps": c.ln_eps}
    layers = []
    for layer in model.attention:
        assert isinstance(layer, AttentionParameters)
        inner: dict[str, Any] = {"num_heads": 1, "bias": True, "smooth": c.smooth_type_embedding}
        inner |= {k: _layer(getattr(layer, k), "none", False, c.precision) for k in ("in_proj", "out_proj")}
        w, b = (_array(layer.layer_norm[k], c.precision) for k in ("weight", "bias"))
        layer_norm: dict[str, Any] = {
            "@class": "LayerNorm",
            "@version": 1,
            "eps": c.ln_eps,
            "trainable": c.trainable_ln,
        }
        layer_norm |= {"precision": c.precision, "@variables": {"w": w, "b": b}}
        both = {"attention_layer": {**shape, **options, **inner}, "attn_layer_norm": layer_norm}
        layers.append({**shape, **options, **norm, **both})
    head = {"@class": "NeighborGatedAttention", "@version": 1, "layer_num": c.attn_layer}
    return {**head, **shape, **options, **norm, "attention_layers": layers}


def _type_embedding(model: DPA1) -> dict[str, Any]:
    c = model.config
    layer = _layer(model.type_embedding, "Linear", True, c.precision)
    net = {"@class": "EmbeddingNetwork", "@version": 2, "in_dim": model.type_embedding.weight.shape[0]}
    net |= {"neuron": [c.tebd_dim], "activation_function": "Linear", "resnet_dt": False, "bias": c.use_tebd_bias}
    net |= {"precision": c.precision, "layers": [layer]}
    return {
        "@class": "TypeEmbedNet",
        "@version": 2,
        "ntypes": c.ntypes,
        "neuron": [c.tebd_dim],
        "resnet_dt": False,
        "precision": c.precision,
        "activation_function": "Linear",
        "trainable": True,
        "padding": True,
        "use_econf_tebd": c.use_econf_tebd,
        "use_tebd_bias": c.use_tebd_bias,
        "type_map": list(c.type_map),
        "embedding": net,
    }


def _fitting(model: DPA1) -> dict[str, Any]:
    c, f, fit = model.config, model.config.fitting, model.fitting
    layers: list[LayerParameters] = list(fit.layers)  # type: ignore[arg-type]
    net = {
        "@class": "FittingNetwork",
        "@version": 1,
        "in_dim": c.dim_fitting_in,
        "out_dim": 1,
        "neuron": list(f.neuron),
        "activation_function": f.activation_function,
        "resnet_dt": f.resnet_dt,
        "precision": f.precision,
        "bias_out": True,
        "layers": [
            *_layers(layers[:-1], f.activation_function, f.precision),
            _layer(layers[-1], "none", False, f.precision),
        ],
    }
    variables: dict[str, Any] = {"bias_atom_e": fit.bias_atom_e.detach().cpu().numpy().reshape(c.ntypes, 1)}
    for name in ("case_embd", "fparam_avg", "fparam_inv_std", "aparam_avg", "aparam_inv_std"):
        value = getattr(fit, name, None)
        variables[name] = None if value is None else _array(value, f.precision)
    return {
        "@class": "Fitting",
        "@version": 4,
        "type": "ener",
        "var_name": "energy",
        "dim_out": 1,
        "ntypes": c.ntypes,
        "dim_descrpt": c.dim_descrpt,
        "neuron": list(f.neuron),
        "resnet_dt": f.resnet_dt,
        "numb_fparam": f.numb_fparam,
        "numb_aparam": f.numb_aparam,
        "dim_case_embd": f.dim_case_embd,
        "default_fparam": None if f.default_fparam is None else list(f.default_fparam),
        "activation_function": f.activation_function,
        "precision": f.precision,
        "mixed_types": True,
        "nets": _collection(c.ntypes, "fitting_network", net),
        "rcond": None,
        "exclude_types": list(f.exclude_types),
        "@variables": variables,
        "type_map": list(c.type_map),
        "tot_ener_zero": False,
        "trainable": [True] * (len(f.neuron) + 1),
        "layer_name": None,
        "use_aparam_as_mask": f.use_aparam_as_mask,
        "spin": None,
        "atom_ener": list(f.atom_ener),
    }
