"""A run of molecular dynamics in its folder: killed it goes on to the same bits, and nothing of anybody's is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixBondLength
from ase.io import read, write
from commands import run_command
from md_systems import ENGINE, alloy, cluster, crash

from dpa1_fast.dynamics.md_options import MdError, MdOptions
from dpa1_fast.dynamics.md_run import Run
from dpa1_fast.errors import StructureError
from dpa1_fast.screening.locks import JobError
from dpa1_fast.structures.type_names import TYPE_NAMES

# --- a folder -------------------------------------------------------------------------------------------------------


def options(folder: Path, **how: Any) -> MdOptions:
    base = MdOptions((), folder, "almgcu-demo", 30, ensemble="langevin", temperature=400, save=7, log=5, checkpoint=1e9)
    return replace(base, **how)


def systems() -> list[Atoms]:
    return [alloy(1), cluster()]


def run(o: MdOptions, structures: list[Atoms] | None = None) -> Run:
    structures = structures or systems()
    made = Run(o, ENGINE, structures, [f"s{k}" for k in range(len(structures))])
    assert made()
    return made


def files(folder: Path) -> dict[str, Any]:
    """The bytes of all that is written; of HDF5 the bytes of its arrays."""
    out: dict[str, Any] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(path.relative_to(folder))
        if path.suffix == ".h5":
            with h5py.File(path) as file:
                for system, group in file.items():
                    out |= {f"{name}/{system}/{k}": group[k][()].tobytes() for k in group}
        elif path.name == "restart.npz":
            with np.load(path) as state:
                out |= {f"{name}/{k}": state[k].tobytes() for k in state.files if k != "outputs"}
        else:
            out[name] = path.read_bytes()
    return out


@pytest.mark.parametrize(
    ("ensemble", "kind"),
    [("langevin", "extxyz"), ("bussi", "hdf5"), ("nose-hoover", "hdf5"), ("npt", "extxyz"), ("npt tri", "hdf5")],
)
def test_a_killed_run_goes_on_to_the_same_bits(ensemble: str, kind: str, tmp_path: Path) -> None:
    structures = [alloy(1), alloy(2)]
    how: dict[str, Any] = {"ensemble": ensemble.split()[0], "write": kind}
    if how["ensemble"] == "npt":
        how |= {"pressure": 1.0, "npt": (ensemble.split() * 2)[1].replace("npt", "iso")}
    run(options(tmp_path / "unbroken", **how), structures)
    killed = tmp_path / "killed"
    for at in (3, 15, 24):
        child = os.fork()
        if child == 0:
            # Every step has a restart file, but for one child that leaves frames which no restart file knows of.
            o = options(killed, **how, checkpoint=1e9 if at == 24 else 0.0)
            made = Run(o, ENGINE, structures, ["s0", "s1"])

            def kill_at(now: Any, at: int = at) -> bool:
                if now.step == at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return True

            made(kill_at)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    resumed = run(options(killed, **how), structures)
    assert resumed.resumed > 0
    assert files(killed) == files(tmp_path / "unbroken")


@pytest.mark.parametrize("kind", ["extxyz", "hdf5"])
def test_a_complete_run_is_gone_on_with_by_more_steps(kind: str, tmp_path: Path) -> None:
    run(options(tmp_path / "long", write=kind))
    run(options(tmp_path / "short", write=kind, steps=17))
    again = run(options(tmp_path / "short", write=kind, steps=17))
    assert again.resumed == 17
    run(options(tmp_path / "short", write=kind))
    assert files(tmp_path / "short") == files(tmp_path / "long")


def test_one_that_blew_up_stays_so_and_leaves_no_nan(tmp_path: Path) -> None:
    structures = [crash(), alloy(1)]
    how = {"ensemble": "nve", "save": 1, "log": 1}
    run(options(tmp_path / "unbroken", **how), structures)
    run(options(tmp_path / "broken", **how, steps=2), structures)
    last = run(options(tmp_path / "broken", **how), structures)
    assert "stopped at step" in str(last.md.failed[0])
    assert files(tmp_path / "broken") == files(tmp_path / "unbroken")
    for path in (tmp_path / "broken").rglob("*"):
        assert path.suffix not in (".csv", ".extxyz") or b"nan" not in path.read_bytes().lower()
    assert len(read(tmp_path / "broken" / "trajectory" / "0001.extxyz", ":")) == 31


def changed(folder: Path, **how: Callable[[Any], Any]) -> None:
    """A restart file that holds something else is called damaged, and stays as it is."""
    path = folder / "restart.npz"
    data = path.read_bytes()
    with np.load(path) as file:
        state = {k: file[k] for k in file.files}
    np.savez(path, **state | {k: np.asarray(f(state[k])) for k, f in how.items()})
    with pytest.raises(MdError, match=r"restart\.npz is damaged"):
        run(options(folder, steps=3))
    path.write_bytes(data)


def test_two_at_a_time_do_not_write_one_folder(tmp_path: Path) -> None:
    made = Run(options(tmp_path), ENGINE, systems(), ["s0", "s1"])
    with pytest.raises(JobError, match="another process is writing this job"):
        run(options(tmp_path))
    with pytest.raises(JobError, match="another process is writing this job"):
        run(options(tmp_path, overwrite=True))
    assert made()
    assert run(options(tmp_path)).resumed == 30


def test_an_earlier_run_is_thrown_away_only_for_one_that_can_begin(tmp_path: Path) -> None:
    run(options(tmp_path / "out", steps=3))
    before = files(tmp_path / "out")
    held = cluster()
    held.set_constraint(FixBondLength(0, 1))
    with pytest.raises(StructureError, match="FixBondLengths is not supported"):
        run(options(tmp_path / "out", overwrite=True), [held])
    doubled = cluster()
    doubled.positions[1] = doubled.positions[0] + [0.0, 0.0, 1e-4]
    with pytest.raises(StructureError, match="atoms 0 and 1 overlap"):
        run(options(tmp_path / "out", overwrite=True), [doubled])
    assert files(tmp_path / "out") == before


def test_frames_have_the_masses_and_types_of_their_structure(tmp_path: Path) -> None:
    """So that their momenta are the velocities that they were."""
    heavy = alloy(1)
    heavy.set_velocities(heavy.get_velocities() / 10)
    heavy.set_masses([200.0, 100.0, 100.0, 100.0])
    heavy.arrays[TYPE_NAMES] = np.array(heavy.get_chemical_symbols())
    made = run(options(tmp_path, steps=7, ensemble="nve"), [heavy])
    last = read(tmp_path / "trajectory.extxyz", -1)
    assert last.get_masses() == pytest.approx(heavy.get_masses())
    assert last.get_velocities() == pytest.approx(made.md.motion.velocities, abs=1e-6)
    assert last.arrays[TYPE_NAMES].tolist() == heavy.get_chemical_symbols()


def test_the_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    run(options(tmp_path, steps=3))
    with pytest.raises(MdError, match=r"another run: its timestep was 1.0 and now is 2.0"):
        run(options(tmp_path, steps=3, timestep=2.0))
    with pytest.raises(MdError, match="structures_sha256"):
        run(options(tmp_path, steps=3), [alloy(7), cluster()])
    data = (tmp_path / "restart.npz").read_bytes()
    for bad in (data[: len(data) // 2], b"", data.replace(b"positions", b"POSITIONS")):
        (tmp_path / "restart.npz").write_bytes(bad)
        with pytest.raises(MdError, match=r"restart\.npz is damaged"):
            run(options(tmp_path, steps=3))
    (tmp_path / "restart.npz").write_bytes(data)
    changed(tmp_path, positions=lambda x: x[:3])
    changed(tmp_path, velocities=lambda x: x * np.nan)
    changed(tmp_path, steps=lambda _: -5)
    changed(tmp_path, ids=lambda _: np.array([5, 6]))
    changed(tmp_path, energy=lambda x: x[:1])
    changed(tmp_path, ensemble_given=lambda x: x[:1])
    changed(tmp_path, outputs=lambda _: '{"trajectory": 5}')
    changed(tmp_path, outputs=lambda _: "[]")
    changed(tmp_path, identity=lambda _: "[1]")
    (tmp_path / "restart.npz").unlink()
    with pytest.raises(MdError, match=r"but no restart\.npz"):
        run(options(tmp_path, steps=3))
    assert run(options(tmp_path, steps=3, timestep=2.0, overwrite=True)).resumed == 0


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"ensemble": "nvt"}, "--ensemble 'nvt' is not known"),
        ({"write": "dcd"}, "--write 'dcd' is not known"),
        ({"temperature": None}, "needs a --temperature"),
        ({"timestep": -1.0}, "--timestep -1.0 must be positive"),
        ({"ensemble": "bussi", "tau": float("nan")}, "--tau nan must be positive"),
        ({"ensemble": "npt", "npt": "anis"}, "--npt 'anis' is not known; known: iso, semi, aniso, tri, or letters"),
        ({"ensemble": "npt", "npt": "aa"}, "--npt 'aa' is not known"),
        ({"pressure": 1.0}, "--pressure is of --ensemble npt, and this one is langevin"),
        ({"ensemble": "nve", "tau": 50.0}, "--tau is of --ensemble bussi, nose-hoover, npt, and this one is nve"),
        ({"temperature": float("inf")}, "no temperature in K"),
        ({"seed": -1}, "--seed -1"),
        ({"steps": -1}, "--steps -1"),
    ],
)
def test_options_that_make_no_sense_are_named(how: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(MdError, match=message):
        options(tmp_path, **how)


# --- the commands ---------------------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path) -> None:
    write(tmp_path / "in.extxyz", systems())
    words = ("md", "in.extxyz", "-o", "out", "-m", "almgcu-demo", "-T", 300, "-t", 1, "--save", 10)
    done = run_command(*words, "-n", 20, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "20 steps of 1 fs" in done.stdout
    frames = read(tmp_path / "out" / "trajectory" / "0000.extxyz", ":")
    assert [f.info["step"] for f in frames] == [0, 10, 20]
    assert frames[-1].get_forces().shape == (4, 3)
    log = np.genfromtxt(tmp_path / "out" / "log.csv", delimiter=",", names=True)
    assert log["step"].tolist() == [0, 0]
    assert log["temperature"][1] == pytest.approx(300)  # the other one brought velocities along
    more = run_command(*words, "-n", 30, cwd=tmp_path)
    assert "(steps 1 to 20 in an earlier run)" in more.stdout
    assert "nothing was left to do" in run_command(*words, "-n", 30, cwd=tmp_path).stdout
    own = run_command("md", "out/trajectory/0000.extxyz", *words[2:], "-n", 30, "--overwrite", cwd=tmp_path)
    assert own.returncode == 2
    assert "0000.extxyz lies in the folder for the results, out, where a job deletes and replaces" in own.stderr
    assert len(read(tmp_path / "out" / "trajectory" / "0000.extxyz", ":")) == 4
    wrong = run_command(*words, "-n", 30, "-e", "npt", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "in.extxyz:1: NPT needs a structure that is periodic along all three axes" in wrong.stderr


def test_the_command_says_what_blew_up(tmp_path: Path) -> None:
    write(tmp_path / "in.extxyz", cluster())
    words = ("in.extxyz", "-o", "out", "-m", "almgcu-demo", "-t", 1, "-n", 50, "-T", 500, "--timestep", 90)
    done = run_command("md", *words, cwd=tmp_path)
    assert done.returncode == 1
    assert "error: in.extxyz:0: stopped at step" in done.stderr
    assert len(read(tmp_path / "out" / "trajectory.extxyz", ":")) == 1


def test_relax_is_screening_with_relaxed_structures_written(tmp_path: Path) -> None:
    write(tmp_path / "in.extxyz", [alloy(1, kelvin=0.0), alloy(2, kelvin=0.0)])
    done = run_command("relax", "in.extxyz", "-o", "out", "-m", "almgcu-demo", "--cell", "--no-report", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    relaxed = read(tmp_path / "out" / "results.extxyz", ":")
    assert all(np.linalg.norm(a.get_forces(), axis=1).max() < 0.05 for a in relaxed)
    assert "this job was complete" in run_command(
        "relax", "in.extxyz", "-o", "out", "-m", "almgcu-demo", "--cell", "--no-report", cwd=tmp_path
    ).stdout  # fmt: skip
