"""Small data sets with labels of a random teacher, and the inputs that train on them; for the tests of training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from conftest import BASE, crystal, make_model, molecule

from dpa1_fast import Engine

NAMES = list(BASE.type_map)

TOML = """
[model]
rcut = 4.0
rcut_smth = 1.0
neuron = [4, 8]
axis_neuron = 2
attn = 4
attn_layer = 1
[model.fitting]
neuron = [8]
[data]
train = ["{folder}/train"]
valid = ["{folder}/valid"]
batch_atoms = 16
[training]
steps = {steps}
display = 2
save = 3
seed = 5
ema = 0.9
{training}
[loss]
virial = [0.1, 1.0]
[learning_rate]
start_lr = 0.01
decay_steps = 3
"""


def labelled(structures: list[Any]) -> list[dict[str, np.ndarray]]:
    """Structures with the energies, forces and virials of a teacher, as arrays of DeePMD-kit's."""
    results = Engine(make_model(), precision="float64").evaluate(structures)
    out = []
    for atoms, result in zip(structures, results, strict=True):
        types = np.array([NAMES.index(s) for s in atoms.symbols], np.int32)
        arrays = {"coord": atoms.positions, "energy": np.array(result.energy), "force": result.forces}
        arrays |= {"real_atom_types": types, "box": np.array(atoms.cell[:])}
        arrays |= {"virial": result.virial}
        out.append(arrays)
    return out


def write_system(folder: Path, rows: list[dict[str, np.ndarray]], mixed: bool = True, names: Any = NAMES) -> None:
    """A DeePMD-kit system of structures of one size, ``mixed_type`` or with one composition."""
    part = folder / "set.000"
    part.mkdir(parents=True)
    n = len(rows[0]["coord"])
    (folder / "type_map.raw").write_text("\n".join(names))
    types = np.zeros(n, int) if mixed else rows[0]["real_atom_types"]
    np.savetxt(folder / "type.raw", types, fmt="%d")
    for name in rows[0]:
        if name != "real_atom_types" or mixed:
            np.save(part / f"{name}.npy", np.stack([np.ravel(row[name]) for row in rows]))


def write_lmdb(folder: Path, rows: list[dict[str, np.ndarray]]) -> None:
    """The same structures as a DeePMD-kit LMDB data set."""
    import lmdb
    import msgpack

    def packed(x: np.ndarray) -> dict[str, Any]:
        return {"type": x.dtype.str, "shape": list(x.shape), "data": x.tobytes()}

    theirs = {"coord": "coords", "box": "cells", "energy": "energies", "force": "forces", "virial": "virials"}
    meta = {"nframes": len(rows), "frame_idx_fmt": "012d", "type_map": NAMES}
    with lmdb.open(str(folder), map_size=2**22) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"__metadata__", msgpack.packb(meta))
        for k, row in enumerate(rows):
            record = {theirs[name]: packed(np.asarray(row[name], np.float64)) for name in theirs}
            record["atom_types"] = packed(row["real_atom_types"].astype(np.int64))
            transaction.put(f"{k:012d}".encode(), msgpack.packb(record))


def periodic(n: int, count: int, first: int = 0) -> list[Any]:
    """Crystals of so many atoms."""
    return [crystal(seed, n) for seed in range(first, first + count)]


def write_data(folder: Path) -> None:
    """Folders ``train`` and ``valid`` with crystals of 3 to 5 atoms."""
    for n in (3, 4, 5):
        write_system(folder / "train" / str(n), labelled(periodic(n, 4, 10 * n)))
    write_system(folder / "valid" / "4", labelled(periodic(4, 3, 99)))


def write_toml(folder: Path, steps: int = 8, training: str = "") -> Path:
    """A TOML that trains on ``write_data``'s folders."""
    path = folder / "input.toml"
    path.write_text(TOML.format(folder=folder, steps=steps, training=training))
    return path


def input_json(folder: Path, **changes: Any) -> dict[str, Any]:
    """DeePMD-kit's input for the same; ``changes`` go by dotted names, as ``loss__use_huber=True``."""
    data: dict[str, Any] = {
        "model": {
            "type_map": NAMES,
            "descriptor": {
                "type": "se_atten", "sel": 40, "rcut": 4.0, "rcut_smth": 1.0, "neuron": [4, 8], "axis_neuron": 2,
                "attn": 4, "attn_layer": 1, "seed": 1,
            },
            "fitting_net": {"neuron": [8, 8], "resnet_dt": True, "seed": 1},
        },
        "learning_rate": {"type": "exp", "decay_steps": 2, "start_lr": 0.001, "stop_lr": 1e-6},
        "loss": {"type": "ener", "start_pref_e": 0.02, "limit_pref_e": 1, "start_pref_f": 1000, "limit_pref_f": 1},
        "training": {
            "training_data": {"systems": [str(folder / "train" / str(n)) for n in (3, 4, 5)], "batch_size": "auto"},
            "validation_data": {"systems": [str(folder / "valid")], "batch_size": 1, "numb_btch": 2},
            "numb_steps": 4, "seed": 10, "disp_file": "lcurve.out", "disp_freq": 2, "save_freq": 2,
        },
    }  # fmt: skip
    for name, value in changes.items():
        *sections, key = name.split("__")
        here = data
        for section in sections:
            here = here.setdefault(section, {})
        here[key] = value
    return data


def write_json(folder: Path, **changes: Any) -> Path:
    """That input as a file."""
    path = folder / "input.json"
    path.write_text(json.dumps(input_json(folder, **changes)))
    return path


__all__ = [
    "input_json", "labelled", "molecule", "periodic", "write_data", "write_json", "write_lmdb", "write_system",
    "write_toml",
]  # fmt: skip
