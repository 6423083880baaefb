"""A thousand steps of training here and by DeePMD-kit: the same first weights, data and order of data, then errors.

    python bench/speed/train_alike.py ours FOLDER --train DATA… --valid DATA… [--steps N] [--lr 1e-3] [--pretrained M]
    build/peer/bin/python bench/speed/train_alike.py theirs FOLDER        (with DeePMD-kit's environment)

One structure a step. The first command trains here and leaves the first weights (``start.dp``), the structures of
every step and our errors; the second trains DeePMD-kit's model with its own loss and torch's Adam on these structures,
and prints both. ``--pretrained``: the first weights are a model's, with its biases fitted to the data.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

STAIRS, RATE = 10, 0.6
"""The learning rate falls so often, by that factor."""

PREFACTORS = {"e": (0.02, 1.0), "f": (1000.0, 1.0)}


def rate(step: int, steps: int, lr: float) -> float:
    """The learning rate: a staircase."""
    return float(lr * RATE ** (step // max(1, steps // STAIRS)))


def ours(folder: Path, train: list[str], valid: list[str], steps: int, lr: float, pretrained: str | None) -> None:
    """Trains here."""
    import torch

    from dpa1_fast import DPA1Config
    from dpa1_fast.checkpoint import write_model
    from dpa1_fast.config import FittingConfig
    from dpa1_fast.train.data import Dataset, elements
    from dpa1_fast.train.distributed import World
    from dpa1_fast.train.finetune import FinetuneOptions, begin, ready
    from dpa1_fast.train.loop import Loop
    from dpa1_fast.train.options import BatchOptions, DataOptions, Options, ScheduleOptions
    from dpa1_fast.train.prepare import prepare
    from dpa1_fast.train.validation import validate, whole

    config = DPA1Config(
        type_map=elements(train), rcut=6.0, rcut_smth=0.5, sel=(120,), neuron=(8, 16, 32), axis_neuron=8, attn=32,
        attn_layer=1, smooth_type_embedding=False, fitting=FittingConfig(neuron=(48, 48, 48)),
    )  # fmt: skip
    options = Options(
        model=config, train=DataOptions(tuple(train), BatchOptions("frames", 1)),
        valid=DataOptions(tuple(valid), count=1), steps=steps, display=steps, save=steps, validate=steps,
        schedule=ScheduleOptions(start_lr=lr, stop_lr=0.0, decay_steps=max(1, steps // STAIRS), decay_rate=RATE),
    )  # fmt: skip
    if pretrained is None:
        prepared = prepare(options)
    else:
        began = begin(pretrained, None, (*train, *valid), "neighbors")
        prepared = ready(began, options, FinetuneOptions(), "auto", True)
    folder.mkdir(parents=True, exist_ok=True)
    write_model(prepared.model, folder / "start.dp")
    order = [prepared.order(k) for k in range(steps)]
    assert all(len(chosen) == 1 for chosen in order)

    def frames(data: Dataset) -> dict[str, np.ndarray]:
        s = data.samples
        return {
            "coord": np.concatenate([x.structure.positions for x in s]), "box": np.stack([x.structure.cell for x in s]),
            "type": np.concatenate([x.structure.types for x in s]), "energy": np.array([x.energy for x in s]),
            "force": np.concatenate([x.force for x in s]), "start": np.cumsum([0, *data.atoms]),
        }  # fmt: skip

    assert prepared.valid is not None
    held = {f"valid_{k}": v for k, v in frames(prepared.valid).items()}
    np.savez(folder / "data.npz", lr=lr, order=np.array(order)[:, 0], **frames(prepared.train), **held)
    began_at = time.process_time()
    loop = Loop(prepared, folder, World(0, 1, torch.device("cpu")))
    loop.run()
    seconds = time.process_time() - began_at
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

    def structure(k: int, kind: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
        atoms = slice(*data[f"{kind}start"][k : k + 2].tolist())
        inputs = {"coord": data[f"{kind}coord"][None, atoms], "atype": data[f"{kind}type"][None, atoms]}
        label = {"energy": data[f"{kind}energy"][k].view(1, 1), "force": data[f"{kind}force"][None, atoms]}
        return inputs | {"box": data[f"{kind}box"][k].view(1, 9)}, label

    prefs = {f"{end}_pref_{k}": v[n] for k, v in PREFACTORS.items() for n, end in enumerate(("start", "limit"))}
    lr, order = float(data["lr"]), data["order"].tolist()
    judge = EnergyStdLoss(starter_learning_rate=lr, **prefs)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    began = time.process_time()
    for step, chosen in enumerate(order):
        inputs, label = structure(chosen)
        label |= {"find_energy": 1.0, "find_force": 1.0}
        now = rate(step, len(order), lr)
        for group in optimizer.param_groups:
            group["lr"] = now
        optimizer.zero_grad()
        _, loss, _ = judge(
            inputs, model, label, natoms=inputs["atype"].shape[1], learning_rate=rate(step, len(order), lr)
        )
        loss.backward()
        optimizer.step()
    seconds = time.process_time() - began
    de, df = [], []
    for k in range(len(data["valid_energy"])):
        inputs, label = structure(k, "valid_")
        found = model(**inputs)
        de.append(float(found["energy"].detach() - label["energy"]) / inputs["atype"].shape[1])
        df.append((found["force"].detach() - label["force"]).numpy().ravel())
    told = {
        "energy": float(np.sqrt(np.mean(np.square(de)))),
        "force": float(np.sqrt(np.mean(np.square(np.concatenate(df))))),
    }
    mine = json.loads((folder / "ours.json").read_text(encoding="utf-8"))
    for name in told:
        print(f"{name}: ours {mine[name]:.6g}, DeePMD-kit {told[name]:.6g}, ratio {mine[name] / told[name]:.4f}")
    steps = len(order)
    print(f"processor seconds: ours {mine['seconds']:.0f}, DeePMD-kit {seconds:.0f} ({steps} steps, not paired)")


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("who", choices=("ours", "theirs"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", nargs="+")
    parser.add_argument("--valid", nargs="+")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--pretrained")
    given = parser.parse_args()
    if given.who == "ours":
        ours(given.folder, given.train, given.valid, given.steps, given.lr, given.pretrained)
    else:
        theirs(given.folder)


if __name__ == "__main__":
    main()
