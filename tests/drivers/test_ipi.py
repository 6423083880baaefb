"""i-PI: all beads in one batch inside of i-PI, and the same numbers through UNIX and TCP sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from conftest import crystal, make_model

from dpa1_fast import Engine
from dpa1_fast.checkpoint import write_model

pytestmark = pytest.mark.drivers

pytest.importorskip("ipi")
from ipi.pes import load_pes  # noqa: E402
from ipi.utils.units import unit_to_internal, unit_to_user  # noqa: E402

FILE = Path(__file__).parents[2] / "dpa1_fast" / "drivers" / "dpa1_fast_ipi.py"
PROGRAMS = Path(sys.executable).parent
ENGINE = Engine(make_model(), threads=1)
BEADS = 4

INPUT = """<simulation verbosity='low'>
  <output prefix='out'>
    <properties stride='1' filename='log'> [ step, potential{electronvolt}, kinetic_md{electronvolt} ] </properties>
  </output>
  <total_steps>4</total_steps>
  <prng><seed>7</seed></prng>
  FIELD
  <system>
    <initialize nbeads='4'>
      <file mode='ase'>start.extxyz</file>
      <velocities mode='thermal' units='kelvin'>300</velocities>
    </initialize>
    <forces><force forcefield='dpa1'/></forces>
    <motion mode='dynamics'>
      <dynamics mode='nve'><timestep units='femtosecond'>0.2</timestep></dynamics>
    </motion>
    <ensemble><temperature units='kelvin'>300</temperature></ensemble>
  </system>
</simulation>
"""
DIRECT = f"""<ffdirect name='dpa1' pbc='false'>
    <pes>custom</pes><pes_path>{FILE}</pes_path>
    <parameters>{{template: start.extxyz, model: model.dp, threads: 1}}</parameters>
    <batch_size>{BEADS}</batch_size>
  </ffdirect>"""


def upright() -> Atoms:
    """i-PI's cells are upper triangular in columns, ours lower triangular in rows."""
    return crystal()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_model(make_model(), tmp_path / "model.dp")
    write(tmp_path / "start.extxyz", upright())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pes() -> Any:
    return load_pes("custom", str(FILE))(template="start.extxyz", model="model.dp", threads=1)


def test_all_beads_are_one_batch_and_what_the_engine_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver, calls = pes(), []
    evaluate = type(driver._copies.engine).evaluate_batch
    monkeypatch.setattr(
        type(driver._copies.engine),
        "evaluate_batch",
        lambda self, batch, **k: calls.append(1) or evaluate(self, batch, **k),
    )
    beads = []
    for seed in range(BEADS):
        beads.append(upright())
        beads[-1].rattle(0.05, seed=seed)
    cells = [unit_to_internal("length", "angstrom", a.cell.array.T) for a in beads]
    places = [unit_to_internal("length", "angstrom", a.positions) for a in beads]
    found = driver(cells, places)
    assert calls == [1]
    for (energy, forces, virial, _), expected in zip(found, ENGINE.evaluate(beads), strict=True):
        assert abs(unit_to_user("energy", "electronvolt", energy) - expected.energy) < 1e-9
        assert np.abs(unit_to_user("force", "ev/ang", forces) - expected.forces).max() < 1e-9
        symmetric = (expected.virial + expected.virial.T) / 2
        assert np.abs(unit_to_user("energy", "electronvolt", virial) - symmetric).max() < 1e-9
    one = driver(cells[1], places[1])
    assert one[0] == found[1][0]


def test_a_run_in_i_pi_itself_and_through_sockets(folder: Path) -> None:
    direct = run(folder, DIRECT)
    assert direct.shape == (5, 3)
    name = f"dpa1_{os.getpid()}"
    unix = f"<ffsocket name='dpa1' mode='unix' pbc='false'><address>{name}</address></ffsocket>"
    assert np.allclose(run(folder, unix, "-u", "-a", name), direct, rtol=1e-7, atol=0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    tcp = f"<ffsocket name='dpa1' mode='inet' pbc='false'><address>127.0.0.1</address><port>{port}</port></ffsocket>"
    assert np.allclose(run(folder, tcp, "-a", "127.0.0.1", "-p", port), direct, rtol=1e-7, atol=0)


def run(folder: Path, field: str, *client: str) -> np.ndarray:
    """The log of a run; with a client of our own where its words are given."""
    (folder / "input.xml").write_text(INPUT.replace("FIELD", field), encoding="utf-8")
    server = subprocess.Popen(
        [PROGRAMS / "i-pi", "input.xml"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if client:
        time.sleep(3.0)  # until i-PI listens
        parameters = "template=start.extxyz,model=model.dp,threads=1"
        words = ["-m", "custom", "-P", str(FILE), "-o", parameters, *client]
        subprocess.run([PROGRAMS / "i-pi-py_driver", *words], cwd=folder, check=False, timeout=120)
    said = server.communicate(timeout=120)[0]
    assert server.returncode == 0, said
    return np.loadtxt(folder / "out.log")
