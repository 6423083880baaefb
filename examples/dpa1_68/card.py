"""The figures of the model card, from what ``dpa1-fast test`` wrote: ``python card.py VALID_FOLDER [TRAIN_FOLDER]``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers


def summary(folder: Path) -> str:
    """Errors of all structures: meV/atom and meV/Å."""
    every = json.loads((folder / "errors.json").read_text())["all"]
    energy = np.loadtxt(folder / "detail.e_peratom.out")
    median = float(np.median(np.abs(energy[:, 0] - energy[:, 1])))
    energies = "RMSE {rmse_ea:.0f}, MAE {mae_ea:.0f}".format(**{k: 1e3 * every[k] for k in ("rmse_ea", "mae_ea")})
    part = 100 * every["rmse_f"] / every["rms_f"]
    forces = f"RMSE {1e3 * every['rmse_f']:.0f} meV/Å, {part:.0f} % of the labels' RMS, MAE {1e3 * every['mae_f']:.0f}"
    return f"energy {energies}, median {1e3 * median:.0f} meV/atom; force {forces}; {every['structures']:,} structures"


def row(element: str, e: dict[str, Any]) -> str:
    """One element's line of the table."""
    part = f"{100 * e['rmse_f'] / e['rms_f']:.0f} %" if e["rms_f"] else "–"
    numbers = [e["structures"], *(f"{1e3 * e[k]:.0f}" for k in ("rmse_ea", "mae_ea", "rmse_f")), part]
    return f"| {element} | {' | '.join(map(str, numbers))} |"


def main(valid: Path, *train: Path) -> None:
    print("held out:", summary(valid))
    for folder in train:
        print("training data:", summary(folder))
    print("\n| element | structures | energy RMSE | MAE | force RMSE | of RMS |\n| --- | --- | --- | --- | --- | --- |")
    elements = json.loads((valid / "errors.json").read_text())["elements"]
    for element in sorted(elements, key=atomic_numbers.__getitem__):
        print(row(element, elements[element]))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
