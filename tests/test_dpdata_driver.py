"""dpdata finds the driver by its name and gets what the engine says, virials as DeePMD-kit has them."""

from __future__ import annotations

import tomllib
from importlib import import_module
from pathlib import Path

import dpdata
import numpy as np
from conftest import make_model

import dpa1_fast.drivers.dpdata  # noqa: F401 (what the entry point loads where the package is installed)
from dpa1_fast import Engine

ENGINE = Engine(make_model(), threads=1)


def frames(periodic: bool) -> dpdata.System:
    rng = np.random.default_rng(0)
    data = {
        "atom_names": ["O", "H"], "atom_numbs": [2, 4], "atom_types": np.array([0, 1, 1, 0, 1, 1]), "orig": np.zeros(3),
        "cells": np.tile(np.eye(3) * 5.0, (3, 1, 1)), "coords": rng.uniform(0, 5, (3, 6, 3)),
    }  # fmt: skip
    return dpdata.System(data={**data, **({} if periodic else {"nopbc": True})})


def test_frames_are_labelled_with_what_the_engine_says() -> None:
    for periodic in (True, False):
        system = frames(periodic)
        labelled = system.predict(driver="dpa1_fast", model=ENGINE)
        expected = ENGINE.evaluate(system.to_ase_structure())
        assert np.array_equal(labelled["energies"], [r.energy for r in expected])
        assert np.array_equal(labelled["forces"], [r.forces for r in expected])
        assert ("virials" in labelled.data) == periodic
        if periodic:
            assert np.array_equal(labelled["virials"], [r.virial for r in expected])


def test_every_entry_point_names_something_that_is_there() -> None:
    root = Path(__file__).parents[1]
    told = tomllib.loads((root / "pyproject.toml").read_text())["project"]["entry-points"]
    assert set(told) == {"lammps.plugins", "ase.plugins", "dpdata.plugins", "openmmml.potentials"}
    for group in ("lammps.plugins", "ase.plugins", "dpdata.plugins"):
        module, _, name = told[group]["dpa1_fast"].partition(":")
        assert not name or getattr(import_module(module), name)
