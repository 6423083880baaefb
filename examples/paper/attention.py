"""Attention: none to three layers, each trained from scratch for as much processor time.

    python examples/paper/attention.py --data FOLDER [--set almgcu] [--seeds 1,2] [--seconds 150]

How many steps that is, is measured first, and stands in the results. Does what is missing in results.jsonl.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from time import process_time

import results
import sets
import torch
from curves import WORK
from trained import FROM_SCRATCH, Clock, forget, judged, trained

from dpa1_fast.checkpoint import find, read_model

LAYERS = (0, 1, 2, 3)
SECONDS = 150
TIMED = (20, 100)
"""Steps of two short trainings, whose difference says what a step costs."""


def steps_for(seconds: float, model: Path, train: Path, folder: Path, layers: int) -> int:
    """So many steps take so much processor time here."""
    spent = []
    for steps in (TIMED[0], *TIMED):  # the first time also imports and compiles
        forget(folder)
        began = process_time()
        trained(model, train, steps, 1, "scratch", FROM_SCRATCH, folder, attn_layer=layers)
        spent.append(process_time() - began)
    forget(folder)
    each = max((spent[2] - spent[1]) / (TIMED[1] - TIMED[0]), 1e-4)
    return max(TIMED[1], round(seconds / each))


def one(run: results.Run, model: Path, root: Path, work: Path) -> results.Run:
    """A run's errors, its steps, and what it cost."""
    train, test = sets.load(run["set"], root)
    folder = work / "-".join(str(v) for v in run.values())
    file, held = sets.write(folder / "train.extxyz", train), sets.write(folder / "test.extxyz", test)
    steps = steps_for(run["budget"], model, file, folder / "timed", run["layers"])
    clock = Clock(folder)
    found = judged(
        trained(
            model, file, steps, run["seed"], "scratch", FROM_SCRATCH, folder / "training", attn_layer=run["layers"]
        ),
        held,
    )
    done = {"steps": steps, **found, "seconds": clock.read()}
    forget(folder)
    return done


def main(arguments: Sequence[str] | None = None) -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="dpa1-68", help="whose other hyper-parameters are taken")
    parser.add_argument("--set", default="almgcu")
    parser.add_argument("--seeds", default="1,2")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=results.FILE)
    parser.add_argument("--work", type=Path, default=WORK)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    model = Path(find(given.model))
    planned = [
        {"experiment": "attention", "set": given.set, "layers": layers, "seed": int(seed), "budget": given.seconds,
         "model": results.shape(read_model(model).model.config)}
        for seed in given.seeds.split(",") for layers in LAYERS
    ]  # fmt: skip
    results.do(planned, lambda run: one(run, model, given.data, given.work), given.results)


if __name__ == "__main__":
    main()
