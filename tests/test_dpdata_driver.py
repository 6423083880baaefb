"""dpdata finds the driver by its name and gets what the engine says, virials as DeePMD-kit has them."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import dpdata
import numpy as np
from conftest import make_model

from dpa1_fast import Engine
from dpa1_fast.drivers.dpdata import DPA1Driver  # what the entry point loads where the package is installed

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


def test_parameters_of_a_system_count_and_types_need_not_be_elements() -> None:
    """A default of the model serves only who gives none."""
    fitting = replace(make_model().config.fitting, numb_fparam=2, numb_aparam=1, default_fparam=(0.1, 0.2))
    model = make_model(fitting=fitting, type_map=("HW", "C", "OW"))
    engine = Engine(model, threads=1)
    rng = np.random.default_rng(1)
    given = {"fparam": rng.normal(size=(3, 2)), "aparam": rng.normal(size=(3, 6, 1))}
    data = {**frames(True).data, "atom_names": ["OW", "HW"], **given}
    found = DPA1Driver(engine).label(data)
    atoms = list(frames(True).to_ase_structure())
    for k, x in enumerate(atoms):
        x.arrays["dpa1_type"] = np.array(["OW", "HW"])[data["atom_types"]]
        x.info["fparam"], x.arrays["aparam"] = given["fparam"][k], given["aparam"][k]
    expected = engine.evaluate(atoms)
    assert np.array_equal(found["energies"], [r.energy for r in expected])
    without = DPA1Driver(engine).label({k: x for k, x in data.items() if k != "fparam"})
    assert not np.isclose(found["energies"], without["energies"], atol=1e-9).any()


def test_every_entry_point_names_something_that_is_there() -> None:
    root = Path(__file__).parents[1]
    told = tomllib.loads((root / "pyproject.toml").read_text())["project"]["entry-points"]
    assert set(told) == {"lammps.plugins", "ase.plugins", "dpdata.plugins", "openmmml.potentials"}
    for group in ("lammps.plugins", "ase.plugins", "dpdata.plugins"):
        module, _, name = told[group]["dpa1_fast"].partition(":")
        assert not name or getattr(import_module(module), name)
