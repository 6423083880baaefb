"""A model that knows more types: the same for those it had, and a first guess for the new ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..kernels import reference as ref
from ..model import DPA1
from .data import Dataset
from .similar import shares
from .statistics import environment_statistics


def extended(model: DPA1, new: Sequence[str], way: str) -> DPA1:
    """The model with types of these names behind its own; energies of structures without them are the same.

    A new type's row of the type embedding, its statistics and its bias are means over the types that are most like it;
    see ``shares``. With ``use_econf_tebd`` the electron configuration itself gives the row.
    """
    if not new:
        return model
    old, n = model.config, model.config.ntypes
    energies = old.fitting.atom_ener
    fitting = replace(old.fitting, atom_ener=(*energies, *[None] * len(new)) if energies else ())
    config = replace(old, type_map=(*old.type_map, *new), fitting=fitting)
    mix = torch.stack([torch.from_numpy(shares(name, old.type_map, way)) for name in new])
    out = DPA1(config).set_dtype(torch.float64)
    state = {name: value.detach().double() for name, value in model.state_dict().items()}
    for name in ("davg", "dstd", "out_bias", "fitting.bias_atom_e"):
        state[name] = torch.cat([state[name], mix @ state[name]])
    if not old.use_econf_tebd:
        table = model.type_table().detach().double()
        table = torch.cat([table, mix @ table])
        state["type_embedding.weight"] = _weight_of(out, table, state.get("type_embedding.bias"))
    out.load_state_dict(state)
    assert out.config.ntypes == n + len(new)
    return out.set_dtype(model.dtype)


def _weight_of(model: DPA1, table: Tensor, bias: Tensor | None) -> Tensor:
    """The embedding's weight that makes this table: its layer adds the one-hot where widths match or double."""
    weight = torch.zeros_like(table)
    one_hot = torch.eye(model.config.ntypes, dtype=torch.float64)
    rest: Tensor = ref.resnet_layer(one_hot, ref.Layer(weight, bias, None), ref.activation("linear"))
    return table - rest


def set_new_statistics(model: DPA1, data: Dataset, chosen: Sequence[int], first: int) -> None:
    """davg and dstd of the types from number ``first`` on, as far as the data has them; the others stay."""
    davg, dstd = environment_statistics(model.config, (data.neighborhood(k) for k in chosen))
    seen = data.compositions()[list(chosen)].sum(0) > 0
    for t in range(first, model.config.ntypes):
        if seen[t]:
            model.dstd[t] = torch.from_numpy(dstd[t])
            if not model.config.set_davg_zero:
                model.davg[t] = torch.from_numpy(davg[t])
