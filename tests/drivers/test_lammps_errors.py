"""What goes wrong in LAMMPS ends with one line that names it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import make_model, molecule
from test_lammps import ALLOY, EVERYTHING, PAIR, THERMO, alloy, assert_same, prepared, setting, warm
from test_lammps import demo as demo
from test_lammps import folder as folder

from bench.speed.lammps_runs import DRIVERS, START, Run, lmp, write_data
from dpa1_fast.drivers.lammps import build

pytestmark = pytest.mark.drivers

NVE = THERMO + "thermo 1\ntimestep 0.001\nfix 1 all nve\nrun 50\n"


def stopped(folder: Path, script: str, *words: str, ranks: int = 1) -> Run:
    """LAMMPS ends with an error of its own in one line, and neither crashes nor prints NaN."""
    run = lmp(folder, script, ranks)
    assert run.code > 0, run.said  # a signal would be negative
    assert run.error, run.said
    assert "nan" not in " ".join(str(row) for row in run.thermo)
    for word in words:
        assert word in run.said, run.said
    assert "Segmentation" not in run.said
    return run


@pytest.mark.parametrize("ranks", [1, 2])
def test_overlapping_atoms_are_named(ranks: int, folder: Path) -> None:
    atoms = alloy()
    atoms.positions[17] = atoms.positions[41] + [0, 0, 2e-4]
    write_data(folder / "data", atoms, ALLOY)
    run = lmp(folder, setting() + NVE, ranks)
    assert run.code > 0
    named = "dpa1_fast: atoms 18 and 42 overlap at step 0: they are 0.0002 Å apart"
    assert named in run.said or named.replace("18 and 42", "42 and 18") in run.said, run.said


def test_an_atom_that_leaves_the_box_is_named(folder: Path) -> None:
    atoms = alloy()
    velocities = np.zeros((108, 3))
    velocities[0, 2] = -800.0
    start = START.replace("read_data", "boundary p p f\nread_data")
    write_data(folder / "data", atoms, ALLOY, velocities)
    pair = PAIR.format("", "Mg Al Cu")
    stopped(folder, start + pair + NVE, "atoms left the box and are lost at step", ": 1", "Lost atoms", ranks=2)


def test_lost_atoms_are_not_mixed_up_with_deleted_ones(folder: Path) -> None:
    """IDs have gaps after delete_atoms with compress no, and the highest is above the number of atoms."""
    atoms = alloy()
    velocities = np.zeros((108, 3))
    velocities[107, 2] = 800.0
    start = START.replace("read_data", "boundary p p f\nread_data")
    write_data(folder / "data", atoms, ALLOY, velocities)
    fewer = "group few id 1:3 50\ndelete_atoms group few compress no\n"
    pair = PAIR.format("", "Mg Al Cu")
    run = stopped(folder, start + fewer + pair + NVE, "atoms left the box and are lost at step", "Lost atoms", ranks=2)
    told = next(line for line in run.said.splitlines() if "are lost at step" in line)
    assert told.split("lost at step")[1].split(":")[1].split()[0] == "108", told


IN_PYTHON = """from lammps import lammps
l = lammps(cmdargs=["-log", "none", "-screen", "none"])
l.commands_string("units metal\\nnewton on\\nread_data data\\npair_style dpa1_fast model.prepared")
for command in ("pair_style dpa1_fast model.prepared nothing", "pair_coeff * * Mg Al Cu", "run 0",
                "pair_style dpa1_fast model.prepared out_freq 0", "pair_coeff * * Mg Al Cu", "run 0"):
    try:
        l.command(command)
        print(command, "was done")
    except Exception as error:
        print(error)
"""


def test_a_pair_style_that_failed_leaves_none(folder: Path) -> None:
    """In a notebook LAMMPS lives on after an error: neither half of the new style nor the one before is used."""
    where = {**os.environ, "LD_LIBRARY_PATH": str(DRIVERS.parent / "lib")}  # MPI's
    command = [str(DRIVERS / "python"), "-c", IN_PYTHON]
    run = subprocess.run(command, cwd=folder, env=where, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "was done" not in run.stdout
    assert run.stdout.count("pair_coeff of dpa1_fast: the pair_style before it failed; give it again") == 2


def test_a_file_that_only_one_rank_lacks_is_named(folder: Path) -> None:
    """Each machine of a cluster may have files of its own; all ranks stop, with what that one has to say."""
    (folder / "in.lammps").write_text(setting() + "run 0\n")
    bare = folder / "bare"
    bare.mkdir()
    for name in ("data", "in.lammps"):
        (bare / name).write_bytes((folder / name).read_bytes())
    ranks = [["-n", "1", "-wdir", str(x), str(DRIVERS / "lmp"), "-in", "in.lammps"] for x in (folder, bare)]
    command = [str(DRIVERS / "mpiexec"), *ranks[0], ":", *ranks[1]]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode > 0
    assert "ERROR: pair_style dpa1_fast: model.prepared cannot be read" in run.stdout, run.stdout + run.stderr


def test_high_ids_cost_nothing(folder: Path) -> None:
    """IDs need not be those of as many atoms: what is kept of them goes by the atoms."""
    write_data(folder / "data", alloy(1), ALLOY)
    rows = (folder / "data").read_text().split("Atoms\n\n")
    (folder / "data").write_text("Atoms\n\n".join([rows[0], rows[1].replace("4 ", "400000000 ", 1)]))
    (folder / "in.lammps").write_text(setting() + "run 0\n")
    measure = "import resource as r, subprocess as s, sys; s.run(sys.argv[1:], stdout=s.DEVNULL, check=True)"
    measure += "; print(r.getrusage(r.RUSAGE_CHILDREN).ru_maxrss)"
    command = [sys.executable, "-c", measure, str(DRIVERS / "lmp"), "-in", "in.lammps"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=60)
    assert int(run.stdout) < 300_000  # kB


def test_a_file_of_deviations_that_cannot_be_written_stops_before_the_first_step(folder: Path) -> None:
    write_data(folder / "data", alloy(), ALLOY)
    pair = setting(" model.prepared out_file nowhere/devi.out")
    stopped(folder, pair + NVE, "ERROR: pair_style dpa1_fast: nowhere/devi.out cannot be written to", ranks=2)


def test_a_cell_that_collapses_is_right_or_an_error(folder: Path) -> None:
    """Down to a tenth of its size, past the cut-off: to the end, or a LAMMPS error."""
    press = "fix 2 all deform 1 x scale 0.1 y scale 0.1 z scale 0.1 remap x\n" + THERMO + "thermo 10\nrun 200\n"
    run = lmp(folder, setting() + press)
    assert run.code >= 0, run.said
    assert run.code == 0 or run.error
    for row in run.thermo:
        assert all(np.isfinite(x) for x in row.values())
    small = molecule(4, 3, 2.4, cell=np.eye(3) * 2.6, pbc=True)
    model = make_model(sel=(300,))
    prepared(folder, model)
    write_data(folder / "data", small, ["H", "C", "O"])
    assert_same(folder, setting("", "H C O") + EVERYTHING, model, small, 1)


def test_a_time_step_that_is_far_too_long_ends_in_an_error(folder: Path) -> None:
    write_data(folder / "data", alloy(), ALLOY, warm(alloy(), 3000.0))
    run = lmp(folder, setting() + THERMO + "thermo 1\ntimestep 0.5\nfix 1 all nve\nrun 100\n", 2)
    assert run.code > 0
    assert run.error


def test_a_plugin_for_another_release_is_not_loaded(folder: Path) -> None:
    """Classes of LAMMPS differ between updates of one version: such a plugin would crash."""
    headers = next(DRIVERS.parent.glob("lib/python*/site-packages/lammps/include/lammps"))
    flags = ["-UDPA1_FAST_RELEASE", '-DDPA1_FAST_RELEASE="stable_22Jul2025_update1"']
    plugin = build(folder / "plugin", headers, mpi=DRIVERS.parent / "include", flags=flags)
    run = lmp(folder, f"plugin load {plugin}\nprint fine\n")
    assert "was built for LAMMPS 22 Jul 2025 stable_22Jul2025_update1 and this is stable_22Jul2025_update4" in run.said
    assert "\nfine\n" in run.said


def test_a_pair_style_given_again_is_a_new_one(folder: Path) -> None:
    """Its types must be told again, for another model may have others; its options are not those of the first."""
    once = setting(" precision float32") + THERMO + "run 0\n"
    stopped(folder, once + "pair_style dpa1_fast model.prepared\nrun 0\n", "All pair coeffs are not set")
    again = lmp(folder, once + PAIR.format("", "Mg Al Cu") + "run 0\n")
    assert again.code == 0, again.said
    first, last = lmp(folder, once).last["PotEng"], lmp(folder, setting() + THERMO + "run 0\n").last["PotEng"]
    assert [row["PotEng"] for row in again.thermo] == [first, last]
    assert first != last


def cut(data: bytes) -> bytes:
    return data[:-100]


def flipped(data: bytes) -> bytes:
    return data[:5000] + bytes([data[5000] ^ 4]) + data[5001:]


def newer(data: bytes) -> bytes:
    return data[:8] + b"\x07" + data[9:]


@pytest.mark.parametrize(
    ("spoil", "said"), [(cut, "cut short"), (flipped, "its checksum is wrong"), (newer, "is of version 7")]
)
def test_damaged_files_are_refused(spoil: Callable[[bytes], bytes], said: str, folder: Path) -> None:
    path = folder / "model.prepared"
    path.write_bytes(spoil(path.read_bytes()))
    stopped(folder, setting() + "run 0\n", said, "compile it again", ranks=2)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (setting("", "Mg Al Zn"), "has no type for Zn (atom type 3); it was compiled for Mg Al Cu"),
        (setting("", "Mg Al"), "2 elements for 3 atom types"),
        (setting("", "NULL NULL NULL"), "no atom type has an element"),
        (setting(" precision float16"), "there is no precision float16"),
        (setting(" threads 0"), "threads must be 1 or more"),
        (setting(" precision"), "precision needs a value"),
        (setting(" out_freq 10 sideways 1"), "there is no option sideways"),
        (setting(" relative -1"), "relative must be 0 or more, not -1"),
        (setting().replace("model.prepared", ""), "give a prepared model file"),
        (setting().replace("model.prepared", "nothing"), "nothing cannot be read"),
        (setting().replace("newton on", "newton off"), "needs newton on"),
        (setting().replace("units metal", "units lj"), "needs units metal or real, not lj"),
    ],
)
def test_what_cannot_be_is_said(script: str, said: str, folder: Path) -> None:
    stopped(folder, script + "run 0\n", said)
