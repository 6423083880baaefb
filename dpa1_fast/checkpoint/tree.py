"""DeePMD-kit's portable model: one tree, written as ``.dp`` (HDF5), ``.yaml``, or JSON inside ``.pt2`` and ``.pte``.

Only what a DPA-1 model needs is looked at, by its place in the tree; whatever else a file holds is never visited.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from ..errors import ModelFileError
from . import containers
from .containers import Tree
from .deepmd import foreign
from .parsing import Section
from .pt import choose_head
from .raw import RawModel, Stored

KINDS: dict[str, tuple[str, Callable[[Path], AbstractContextManager[Tree]]]] = {
    "dp": ("DeePMD-kit portable model (.dp)", containers.hdf5),
    "yaml": ("DeePMD-kit portable model (.yaml)", containers.yaml_text),
    "exported": ("DeePMD-kit exported model (.pt2, .pte)", containers.exported),
}
LAYERS = 100_000
"""Most layers that are looked for. An alias can stand for many of them."""


@contextmanager
def opened(path: Path, kind: str, head: str | None) -> Iterator[RawModel]:
    """Opens the tree and renames its arrays to DeePMD-kit's PyTorch names.

    Raises:
        ModelFileError: damaged, or not DeePMD-kit's.
    """
    told, container = KINDS[kind]
    with container(path) as tree:
        data = tree.data.get("model") if isinstance(tree.data, dict) else None
        if not isinstance(data, dict):
            raise ModelFileError(path, "is not a DeePMD-kit model (no model in it)", "give a model of DeePMD-kit")
        model = Section(path, "model", data)
        branch = choose_head(model, head)
        if "model_dict" in model:
            model = model.section("model_dict").section(branch)
        params = _params(model)
        tensors = _Arrays(tree).of(model) if foreign(params) is None else {}
        yield RawModel(path, told, params, tensors, tree.nbytes)


# --- hyper-parameters ---------------------------------------------------------------------------------------------


def _params(model: Section) -> dict[str, Any]:
    params = {
        k: v for k, v in model.values.items() if k in ("type", "type_map", "pair_exclude_types", "atom_exclude_types")
    }
    if "backbone_model" in model or "spin" in model:
        params["spin"] = True
    if "models" in model:
        params["models"] = True
    descriptor, fitting = model.raw("descriptor"), model.raw("fitting")
    if isinstance(descriptor, dict):
        params["descriptor"] = {k: v for k, v in descriptor.items() if not isinstance(v, dict)}
        env_mat = descriptor.get("env_mat")
        if isinstance(env_mat, dict) and env_mat.get("use_exp_switch"):
            params["descriptor"]["use_exp_switch"] = True
        if descriptor.get("@version", 2) == 1 and "use_tebd_bias" not in descriptor:
            params["descriptor"]["use_tebd_bias"] = True
    if isinstance(fitting, dict):
        params["fitting_net"] = {k: v for k, v in fitting.items() if not isinstance(v, dict)}
    return params


# --- arrays -------------------------------------------------------------------------------------------------------


class _Arrays:
    """Collects the arrays of a DPA-1 model by their PyTorch names."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.found: dict[str, Stored] = {}
        self.layers = 0

    def of(self, model: Section) -> dict[str, Stored]:
        descriptor, fitting = model.section("descriptor"), model.section("fitting")
        if "@variables" in model:
            self.put("", model, {k: k for k in model.section("@variables").values})
        block = "descriptor.se_atten."
        self.put(block, descriptor, {"davg": "mean", "dstd": "stddev"})
        self.network(f"{block}filter_layers.", descriptor.section("embeddings"))
        if "embeddings_strip" in descriptor:
            self.network(f"{block}filter_layers_strip.", descriptor.section("embeddings_strip"))
        for n, layer in enumerate(descriptor.section("attention_layers").sections("attention_layers")):
            prefix = f"{block}dpa1_attention.attention_layers.{n}."
            if layer is None:
                continue
            for part in ("in_proj", "out_proj"):
                self.layer(f"{prefix}attention_layer.{part}.", layer.section("attention_layer").section(part))
            self.layer(f"{prefix}attn_layer_norm.", layer.section("attn_layer_norm"))
        for n, layer in enumerate(descriptor.section("type_embedding").section("embedding").sections("layers")):
            self.layer(f"descriptor.type_embedding.embedding.embedding_net.layers.{n}.", layer)
        self.put("fitting_net.", fitting, {k: k for k in fitting.section("@variables").values})
        self.network("fitting_net.filter_layers.", fitting.section("nets"))
        return self.found

    def network(self, prefix: str, collection: Section) -> None:
        for n, net in enumerate(collection.sections("networks")):
            for k, layer in enumerate(net.sections("layers") if net else []):
                self.layer(f"{prefix}networks.{n}.layers.{k}.", layer)

    def layer(self, prefix: str, layer: Section | None) -> None:
        self.layers += 1
        if self.layers > LAYERS and layer is not None:
            raise ModelFileError(layer.path, "holds layers without end", "no model does; do not use it")
        if layer is not None:
            self.put(prefix, layer, {"w": "matrix", "b": "bias", "idt": "idt"})

    def put(self, prefix: str, owner: Section, names: dict[str, str]) -> None:
        variables = owner.section("@variables")
        for theirs, name in names.items():
            if theirs in variables:
                self.found[prefix + name] = self.tree.array(prefix + name, variables.raw(theirs))
