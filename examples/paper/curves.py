"""Learning curves: a pretrained model fine-tuned on few samples, against the same model from scratch.

    python examples/paper/curves.py --data FOLDER [--sets almgcu,sse] [--seeds 1,2] [--threads 1]
    python examples/paper/curves.py --data FOLDER --longer 4      on all samples, for four times as long

Does what is missing in results.jsonl. FOLDER holds teacher68, mlearn and acac (see sets.py).
All sets are done with the first seed first.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import results
import sets
import torch
from trained import Clock, forget, judged, rate_of, trained

from dpa1_fast.checkpoint import find, read_model
from dpa1_fast.train.finetune import steps_for

SAMPLES = (0, 10, 30, 100, 300, -1)
STEPS = 1500
WORK = Path("build/paper")


def length(samples: int, start: str, steps: int) -> results.Run:
    """Steps and first rate: from scratch always as many, fine-tuned as ``dpa1-fast finetune`` does."""
    return {"steps": steps if start == "scratch" else steps_for(samples), "rate": rate_of(start, samples)}


def plan(
    sizes: Mapping[str, int], seeds: Sequence[int], steps: int, models: Mapping[str, str]
) -> Iterator[results.Run]:
    """All runs: at 0 samples the pretrained model as it is.

    Args:
        sizes: structures to train on in each set; only fewer of them are drawn. models: what lines of each start call
            the model; from scratch its hyper-parameters count alone.
    """
    for seed in seeds:
        for name, most in sizes.items():
            for samples in (n for n in SAMPLES if n < most):
                for start in ("pretrained", "scratch"):
                    if samples or (start == "pretrained" and seed == seeds[0]):
                        run = {"experiment": "curves", "set": name, "samples": samples, "start": start}
                        settings = {"seed": seed, **length(most if samples < 0 else samples, start, steps)}
                        yield run | (settings if samples else {"seed": 0, "steps": 0}) | {"model": models[start]}


def plan_longer(
    sizes: Mapping[str, int], seeds: Sequence[int], steps: int, models: Mapping[str, str]
) -> Iterator[results.Run]:
    """On all samples, for more steps: whether the curves' own were too few to compare with."""
    for seed in seeds:
        for start in ("scratch", "pretrained"):
            for name, most in sizes.items():
                run = {"experiment": "longer", "set": name, "samples": -1, "start": start, "seed": seed}
                yield run | {"steps": steps, "rate": rate_of(start, most), "model": models[start]}


def one(run: results.Run, model: Path, root: Path, work: Path) -> results.Run:
    """A run's errors, and what it cost."""
    train, test = sets.load(run["set"], root)
    folder = work / "-".join(str(value) for key, value in run.items() if key != "experiment")
    held = sets.write(folder / "test.extxyz", test)
    clock = Clock(folder)
    if not run["samples"]:
        found = judged(read_model(model).model, held)
    else:
        few = sets.chosen(train, run["samples"], run["seed"])
        file = sets.write(folder / "train.extxyz", few)
        found = judged(
            trained(model, file, run["steps"], run["seed"], run["start"], run["rate"], folder / "training"), held
        )
        found["trained_on"] = len(few)
    found["seconds"] = clock.read()
    forget(folder)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="dpa1-68", help="the pretrained model")
    parser.add_argument("--sets", default=",".join((*sets.TEACHER, *sets.DFT)))
    parser.add_argument("--seeds", default="1,2")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--longer", type=int, default=0, help="in place of the curves")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=results.FILE)
    parser.add_argument("--work", type=Path, default=WORK)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    model = Path(find(given.model))
    seeds = [int(x) for x in given.seeds.split(",")]
    sizes = {name: len(sets.load(name, given.data)[0]) for name in given.sets.split(",")}
    models = {"pretrained": results.digest(model), "scratch": results.shape(read_model(model).model.config)}
    steps = given.longer * given.steps if given.longer else given.steps
    planned = (plan_longer if given.longer else plan)(sizes, seeds, steps, models)
    results.do(planned, lambda run: one(run, model, given.data, given.work), given.results)


if __name__ == "__main__":
    main()
