"""Equations of state and elastic constants of many crystals: right, each done once, and what has none says so."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.io import write
from commands import run_command
from conftest import make_model

import dpa1_fast
from dpa1_fast.dynamics.relax import Relaxed, relax
from dpa1_fast.engine import VOIGT
from dpa1_fast.errors import StructureError
from dpa1_fast.properties.base import Property, PropertyError
from dpa1_fast.properties.connected import connected
from dpa1_fast.properties.elastic import Elastic, full, moduli
from dpa1_fast.properties.eos import Eos
from dpa1_fast.properties.job import Job
from dpa1_fast.screening.locks import FolderLock, JobError
from dpa1_fast.sources import find_sources
from dpa1_fast.structures.structure import from_ase

ENGINE = dpa1_fast.load("almgcu-demo", threads=1)


@pytest.fixture
def metals(tmp_path: Path) -> Path:
    path = tmp_path / "metals.extxyz"
    write(path, [bulk("Al"), bulk("Mg"), fcc111("Al", (1, 1, 3), vacuum=5.0), bulk("Cu")])
    return path


def job(folder: Path, prop: Property) -> Job:
    return Job(ENGINE, "almgcu-demo", prop, folder, 1e-3)


def run(source: Path, folder: Path, prop: Property) -> list[dict[str, str]]:
    job(folder, prop).run(find_sources([str(source)], ENGINE.config.type_map))
    with (folder / f"{prop.name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_bulk_moduli_of_both_ways_agree(metals: Path, tmp_path: Path) -> None:
    by_volume, by_stress = run(metals, tmp_path / "eos", Eos(strain=0.02)), run(metals, tmp_path / "el", Elastic())
    for k in (0, 1, 3):
        assert float(by_volume[k]["bulk_modulus"]) == pytest.approx(float(by_stress[k]["bulk_modulus"]), rel=0.01)
        assert by_stress[k]["stable"] == "True"
    assert by_volume[2]["status"] == by_stress[2]["status"] == "failed"
    assert "needs a crystal, periodic along all three axes" in by_volume[2]["error"]
    cubic, hexagonal = by_stress[0], by_stress[1]
    assert float(cubic["c11"]) == pytest.approx(float(cubic["c33"]), rel=1e-6)
    assert float(cubic["c14"]) == pytest.approx(0.0, abs=1e-3)
    c11, c12, c66 = (float(hexagonal[k]) for k in ("c11", "c12", "c66"))
    assert c66 == pytest.approx((c11 - c12) / 2, rel=1e-3)


def test_the_curve_is_a_table_of_numbers(metals: Path, tmp_path: Path) -> None:
    run(metals, tmp_path, Eos(points=5))
    curve = np.loadtxt(tmp_path / "results" / "0000000.eos.csv", delimiter=",", skiprows=1)
    assert curve.shape == (5, 2)
    assert curve[2, 0] / curve[0, 0] == pytest.approx(1 / 0.94)
    copy = bulk("Al")
    copy.set_cell(copy.cell[:] * (curve[4, 0] / copy.get_volume()) ** (1 / 3), scale_atoms=True)
    assert ENGINE.evaluate([copy])[0].energy == pytest.approx(curve[4, 1], abs=1e-10)


def test_the_constants_are_the_slopes_of_stresses() -> None:
    """Of one shear, by our own difference of stresses with the atoms relaxed."""
    start = relax(ENGINE, [bulk("Mg")], cell=True, fmax=1e-4)[0]
    assert isinstance(start, Relaxed)
    asked = Elastic().ask(start.atoms, "Mg")
    ends = relax(ENGINE, list(asked.copies), fmax=1e-4)
    found = asked.found([e.result for e in ends if isinstance(e, Relaxed)])
    pair = []
    for sign in (1, -1):
        atoms = start.atoms.copy()
        atoms.set_cell(atoms.cell[:] @ (np.eye(3) + sign * full(np.eye(6)[3] * 2e-3)), scale_atoms=True)
        pair.append(relax(ENGINE, [atoms], fmax=1e-4)[0])
    stresses = [p.result.stress for p in pair if isinstance(p, Relaxed)]
    slope = (stresses[0][3] - stresses[1][3]) / 4e-3 * 160.21766
    assert found.row["c44"] == pytest.approx(slope, rel=1e-3)


def test_moduli_of_an_isotropic_body_are_its_own() -> None:
    bulk_modulus, shear = 70.0, 26.0
    c = np.diag([shear] * 6)
    c[:3, :3] = bulk_modulus - 2 * shear / 3 + np.eye(3) * 2 * shear
    found = moduli(c)
    assert found["bulk_modulus"] == pytest.approx(bulk_modulus)
    assert found["shear_modulus"] == pytest.approx(shear)
    assert found["youngs_modulus"] == pytest.approx(9 * bulk_modulus * shear / (3 * bulk_modulus + shear))
    assert np.allclose(full(np.arange(6.0))[tuple(zip(*VOIGT, strict=True))], [0, 1, 2, 1.5, 2, 2.5])


def test_atoms_that_do_not_see_each_other_have_no_moduli(tmp_path: Path) -> None:
    """Neither a gas nor chains, layers or one net beside an atom: no number stands where there is none."""
    layers, chain = bulk("Al", cubic=True), bulk("Cu", cubic=True)
    layers.set_cell([4.05, 4.05, 20.0])
    chain.set_cell([3.6, 20.0, 20.0])
    write(tmp_path / "far.extxyz", [bulk("Al", a=30.0), layers, chain, bulk("Al")])
    *apart, sound = run(tmp_path / "far.extxyz", tmp_path / "out", Elastic())
    for row in apart:
        assert row["status"] == "failed"
        assert row["bulk_modulus"] == row["c11"] == ""
        assert "layers do not see each other within the cut-off of 5.5 Å" in row["error"]
    assert sound["status"] == "ok"


def test_a_net_of_neighbours_runs_along_three_vectors_in_any_cell() -> None:
    """Of a skewed cell, of one with an atom written far outside, and beside a virtual atom."""
    config = ENGINE.config
    steep = bulk("Mg") * (2, 1, 1)
    steep.set_cell(steep.cell[:] + [[0, 0, 0], [0, 0, 0], 3 * steep.cell[:][0]])
    steep.positions[1] += 4 * steep.cell[:][1]
    two = bulk("Al", cubic=True)
    two.set_cell([4.05, 4.05, 12.0])
    for atoms, whole in ((steep, True), (bulk("Al") + Atoms("X", [[1.0, 1.0, 1.0]]), True), (two, False)):
        assert connected(from_ase(config, atoms, "it"), config.rcut) is whole


def test_how_far_to_relax_and_not_to_do_not_go_together(metals: Path, tmp_path: Path) -> None:
    done = run_command("eos", metals, "-m", "almgcu-demo", "-o", tmp_path / "out", "--no-relax", "--fmax", 0.01)
    assert done.returncode == 2
    assert "--fmax says how far to relax, and --no-relax not to; give one of them" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_killed_job_ends_as_one_that_nobody_disturbed(
    metals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpa1_fast.properties.job.ATOMS", 1)  # each structure a group
    run(metals, tmp_path / "whole", Eos())
    child = os.fork()
    if child == 0:
        sources = find_sources([str(metals)], ENGINE.config.type_map)
        job(tmp_path / "killed", Eos()).run(sources, lambda done, _: done == 2 and os.kill(os.getpid(), signal.SIGKILL))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (tmp_path / "killed" / "eos.csv").exists()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "killed" / "results").iterdir()}
    run(metals, tmp_path / "killed", Eos())
    names = sorted(p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(tmp_path / "killed") for p in (tmp_path / "killed").rglob("*") if p.is_file())
    for name in names:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert all(p.stat().st_mtime_ns == when for p, when in before.items()), "what was done is not done again"


def test_the_folder_of_another_job_is_refused(metals: Path, tmp_path: Path) -> None:
    run(metals, tmp_path / "out", Eos())
    with pytest.raises(PropertyError, match=r"another job \(points: 9 then, 7 now\)"):
        run(metals, tmp_path / "out", Eos(points=7))
    read_otherwise = Job(ENGINE, "almgcu-demo", Eos(), tmp_path / "out", 1e-3, {"type_map": ["Mg", "Al"]})
    with pytest.raises(PropertyError, match=r"another job \(type_map: nothing then, "):
        read_otherwise.run(find_sources([str(metals)], ENGINE.config.type_map))
    (tmp_path / "out" / "job.json").unlink()
    with pytest.raises(PropertyError, match="holds files that are of no job"):
        run(metals, tmp_path / "out", Eos())


def test_two_at_a_time_do_not_write_one_folder(metals: Path, tmp_path: Path) -> None:
    with FolderLock(tmp_path / "out"), pytest.raises(JobError, match="another process is writing this job"):
        run(metals, tmp_path / "out", Eos())
    assert len(run(metals, tmp_path / "out", Eos())) == 4


def test_atoms_that_see_each_other_and_do_not_interact_have_no_constants(quiet: None) -> None:
    engine = dpa1_fast.Engine(make_model(pair_exclude_types=((0, 0),)), threads=1)
    hydrogen = bulk("H", "fcc", a=4.0)
    found = Elastic().found(engine, [Elastic().ask(hydrogen, "H")], 1e-3)[0]
    assert isinstance(found, StructureError)
    assert "a strain of it costs nothing" in found.reason


@pytest.mark.parametrize("prop", [Eos(), Elastic()], ids=lambda p: p.name)
def test_what_did_not_come_to_rest_has_no_property(
    prop: Property, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither where the structure itself did not relax, nor where a copy of it did not."""
    monkeypatch.setattr("dpa1_fast.properties.base.STEPS", 2)
    alloy = bulk("Al", cubic=True)
    alloy.symbols[0] = "Cu"
    alloy.rattle(0.2, seed=1)
    write(tmp_path / "in.extxyz", [alloy, bulk("Al", a=4.0)])
    for folder, fmax in (("relaxed", 1e-3), ("as it is", None)):
        made = Job(ENGINE, "almgcu-demo", prop, tmp_path / folder, fmax)
        made.run(find_sources([str(tmp_path / "in.extxyz")], ENGINE.config.type_map))
        with (tmp_path / folder / f"{prop.name}.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert "not relaxed to 0.001 eV/Å after 2 steps; give a larger --fmax" in rows[0]["error"]
        assert fmax is not None or rows[1]["status"] == "ok"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"status": "ok", "else": 1}', '{"index": 1, "stat'])
def test_a_damaged_result_is_named_and_done_again_without_it(text: str, metals: Path, tmp_path: Path) -> None:
    whole = run(metals, tmp_path / "out", Eos())
    path = tmp_path / "out" / "results" / "0000001.json"
    path.write_text(text)
    with pytest.raises(PropertyError, match=r"0000001\.json is damaged; delete it, and its structure is done again"):
        run(metals, tmp_path / "out", Eos())
    path.unlink()
    assert run(metals, tmp_path / "out", Eos()) == whole


def test_options_that_make_no_sense_are_named() -> None:
    for fmax in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(PropertyError, match="--fmax .* must be positive"):
            Job(ENGINE, "almgcu-demo", Eos(), Path("nowhere"), fmax)
    for make in (lambda: Eos(strain=0.7), lambda: Eos(points=3), lambda: Elastic(strain=-1.0)):
        with pytest.raises(PropertyError, match="--strain must lie between"):
            make()


def test_energies_without_a_minimum_are_said(tmp_path: Path) -> None:
    write(tmp_path / "wide.extxyz", bulk("Al", a=5.2))
    made: Any = job(tmp_path / "out", Eos(strain=0.02))
    made.fmax = None  # as it comes in, far from its minimum
    made.prop = Eos(strain=0.02)
    made.run(find_sources([str(tmp_path / "wide.extxyz")], ENGINE.config.type_map))
    assert "no minimum among these volumes" in (tmp_path / "out" / "eos.csv").read_text()


@pytest.mark.parametrize("curve", [lambda v: 0.0 * v, lambda v: -((v - v.mean()) ** 2)], ids=["flat", "a maximum"])
def test_what_is_no_minimum_has_no_modulus(curve: Callable[[Any], Any]) -> None:
    """A fit goes through anything: through energies of atoms that do not see each other, and through a maximum."""
    asked = Eos().ask(bulk("Al"), "Al")
    energies = curve(np.array([a.get_volume() for a in asked.copies])) - 3.0
    with pytest.raises(StructureError, match="no minimum among these volumes"):
        asked.found([SimpleNamespace(energy=e) for e in energies])  # type: ignore[misc]


def test_the_command(metals: Path, tmp_path: Path) -> None:
    done = run_command("eos", "metals.extxyz@0:1", "-o", "out", "-m", "almgcu-demo", "-t", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 structures, 0 failed; wrote out/eos.csv" in done.stdout
