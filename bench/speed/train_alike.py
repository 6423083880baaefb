"""A thousand steps of training here and by DeePMD-kit: the same first weights, data and order of data, then errors.

    python bench/speed/train_alike.py ours DATA FOLDER [STEPS]                  (our environment)
    build/peer/bin/python bench/speed/train_alike.py theirs FOLDER              (DeePMD-kit's)

``DATA`` holds DeePMD-kit systems of one size, such as water; its last system is for validation. The first command
trains here and leaves the first weights (``start.dp``), the batches of every step and our errors; the second trains
DeePMD-kit's model with its own loss and torch's Adam on these batches, and prints both.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

LR, DECAY, RATE = 1e-3, 100, 0.6
PREFACTORS = {"e": (0.02, 1.0), "f": (1000.0, 1.0)}


def rate(step: int) -> float:
    """The learning rate: a staircase."""
    return float(LR * RATE ** (step // DECAY))


def ours(data: Path, folder: Path, steps: int) -> None:
    """Trains here."""
    import torch

    from dpa1_fast import DPA1Config
    from dpa1_fast.checkpoint import write_model
    from dpa1_fast.config import FittingConfig
    from dpa1_fast.sources.deepmd_data import systems
    from dpa1_fast.train.distributed import World
    from dpa1_fast.train.loop import Loop
    from dpa1_fast.train.options import BatchOptions, DataOptions, Options, ScheduleOptions
    from dpa1_fast.train.prepare import prepare
    from dpa1_fast.train.validation import validate, whole

    *train, valid = (str(s) for s in systems(data))
    config = DPA1Config(
        type_map=("O", "H"), rcut=6.0, rcut_smth=0.5, sel=(120,), neuron=(8, 16, 32), axis_neuron=8, attn=32,
        attn_layer=1, smooth_type_embedding=False, fitting=FittingConfig(neuron=(48, 48, 48)),
    )  # fmt: skip
    options = Options(
        model=config, train=DataOptions(tuple(train), BatchOptions("frames", 1)), valid=DataOptions((valid,), count=1),
        schedule=ScheduleOptions(start_lr=LR, stop_lr=0.0, decay_steps=DECAY, decay_rate=RATE), steps=steps,
        display=steps, save=steps, validate=steps,
    )  # fmt: skip
    prepared = prepare(options)
    folder.mkdir(parents=True, exist_ok=True)
    write_model(prepared.model, folder / "start.dp")
    order = [prepared.order(k) for k in range(steps)]

    def frames(data: Any, chosen: list[int]) -> dict[str, np.ndarray]:
        s = [data.samples[k] for k in chosen]
        return {
            "coord": np.stack([x.structure.positions for x in s]), "box": np.stack([x.structure.cell for x in s]),
            "type": np.stack([x.structure.types for x in s]), "energy": np.array([x.energy for x in s]),
            "force": np.stack([x.force for x in s]),
        }  # fmt: skip

    assert prepared.valid is not None
    every = frames(prepared.train, list(range(len(prepared.train))))
    held = frames(prepared.valid, list(range(len(prepared.valid))))
    np.savez(folder / "data.npz", order=np.array(order), **every, **{f"valid_{k}": v for k, v in held.items()})
    began = time.time()
    loop = Loop(prepared, folder, World(0, 1, torch.device("cpu")))
    loop.run()
    seconds = time.time() - began
    found = validate(loop.model, prepared.valid, whole(prepared.valid, 1024), options.loss, 0.0, "auto")
    told = {"energy": found.rmse["energy"], "force": found.rmse["force"], "seconds": seconds}
    (folder / "ours.json").write_text(json.dumps(told), encoding="utf-8")
    print(told)


def theirs(folder: Path) -> None:
    """Trains DeePMD-kit's model, and prints both errors."""
    import torch
    from deepmd.dpmodel.utils.serialization import load_dp_model
    from deepmd.pt.loss.ener import EnergyStdLoss
    from deepmd.pt.model.model.model import BaseModel

    model = BaseModel.deserialize(load_dp_model(str(folder / "start.dp"))["model"]).to("cpu")
    with np.load(folder / "data.npz") as file:
        data = {k: torch.tensor(file[k]) for k in file.files}
    prefs = {f"{end}_pref_{k}": v[n] for k, v in PREFACTORS.items() for n, end in enumerate(("start", "limit"))}
    judge = EnergyStdLoss(starter_learning_rate=LR, **prefs)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    began = time.time()
    for step, chosen in enumerate(data["order"]):
        inputs = {"coord": data["coord"][chosen], "atype": data["type"][chosen], "box": data["box"][chosen].flatten(1)}
        label = {"energy": data["energy"][chosen][:, None], "force": data["force"][chosen]}
        label |= {"find_energy": 1.0, "find_force": 1.0}
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        optimizer.zero_grad()
        _, loss, _ = judge(inputs, model, label, natoms=inputs["atype"].shape[1], learning_rate=rate(step))
        loss.backward()
        optimizer.step()
    seconds = time.time() - began
    de, df = [], []
    for k in range(len(data["valid_energy"])):
        inputs = {"coord": data["valid_coord"][k : k + 1], "atype": data["valid_type"][k : k + 1]}
        found = model(**inputs, box=data["valid_box"][k : k + 1].flatten(1))
        de.append((float(found["energy"].detach()) - float(data["valid_energy"][k])) / inputs["atype"].shape[1])
        df.append((found["force"][0] - data["valid_force"][k]).detach().numpy())
    told = {"energy": float(np.sqrt(np.mean(np.square(de)))), "force": float(np.sqrt(np.mean(np.square(df))))}
    mine = json.loads((folder / "ours.json").read_text(encoding="utf-8"))
    for name in told:
        print(f"{name}: ours {mine[name]:.6g}, DeePMD-kit {told[name]:.6g}, ratio {mine[name] / told[name]:.4f}")
    print(f"seconds: ours {mine['seconds']:.0f}, DeePMD-kit {seconds:.0f} ({len(data['order'])} steps, not paired)")


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    if what == "ours":
        ours(Path(words[0]), Path(words[1]), int(words[2]) if len(words) > 2 else 1000)
    else:
        theirs(Path(words[0]))
