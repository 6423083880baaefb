"""What a model is, in words and numbers, and which of its own traits a user should know."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from .checkpoint import Loaded, own
from .config import DPA1Config
from .model import DPA1


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def traits(model: DPA1) -> list[str]:
    """What the model's own options do to its energy surface (none of it is the engine's doing)."""
    c, out = model.config, []
    davg = bool(model.davg.any())
    strip, smooth = c.tebd_input_mode == "strip", c.smooth_type_embedding
    if c.attn_layer and not smooth:
        out.append("hard softmax (smooth_type_embedding = false): the energy jumps as a neighbour crosses rcut")
        if c.attn_dotr:
            out.append("hard softmax with attn_dotr: forces are stiff within 3e-4 Å of rcut")
    if davg and (not strip or not smooth):
        out.append("davg ≠ 0 (set_davg_zero = false): the energy jumps as a neighbour crosses rcut")
    elif davg and c.exclude_types:
        out.append("davg ≠ 0 with exclude_types: the energy jumps as an excluded neighbour crosses rcut")
    if model.order_dependent:
        out.append("davg ≠ 0: energies depend on which atom of a structure comes first, as in DeePMD-kit")
    return out


def describe(loaded: Loaded) -> dict[str, Any]:
    """Everything ``dpa1-fast info --json`` prints."""
    model, path, kind = loaded
    note = own.description(path) if kind == own.KIND else ""
    return {
        "file": str(path),
        "kind": kind,
        "description": note,
        "sha256": file_hash(path),
        "bytes": path.stat().st_size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "type_map": list(model.config.type_map),
        "config": model.config.to_dict(),
        "traits": traits(model),
    }


def option_rows(config: DPA1Config) -> list[tuple[str, str]]:
    """The options worth reading, as (name, value)."""
    c, f = config, config.fitting
    scale = f"temperature {c.temperature}" if c.temperature is not None else f"scaling_factor {c.scaling_factor:g}"
    gates = [
        w for w, on in (("smooth", c.smooth_type_embedding), ("dotr", c.attn_dotr), ("normalize", c.normalize)) if on
    ]
    attention = f"{c.attn_layer} layers of width {c.attn}, {', '.join((*gates, scale))}" if c.attn_layer else "none"
    sides = "one-sided" if c.type_one_side else "two-sided"
    rows = [
        ("cut-off", f"rcut {c.rcut:g} Å, smooth from {c.rcut_smth:g} Å, sel {c.nsel}"),
        ("embedding", f"{_widths(c.neuron)} {c.activation_function}, axis_neuron {c.axis_neuron}, {c.precision}"),
        (
            "type embedding",
            f"{c.tebd_dim} wide, {c.tebd_input_mode}, {sides}" + (", econf" if c.use_econf_tebd else ""),
        ),
        ("attention", attention),
        ("fitting net", f"{_widths(f.neuron)} {f.activation_function}, {f.precision}"),
    ]
    if f.numb_fparam or f.numb_aparam:
        rows.append(("parameters in", f"{f.numb_fparam} per frame, {f.numb_aparam} per atom"))
    for name, value in (
        ("exclude_types", c.exclude_types),
        ("pair_exclude_types", c.pair_exclude_types),
        ("atom_exclude_types", c.atom_exclude_types),
    ):
        if value:
            rows.append((name, str([list(v) if isinstance(v, tuple) else v for v in value])))
    return rows


def _widths(neuron: tuple[int, ...]) -> str:
    return "/".join(map(str, neuron))
