"""What goes wrong overnight: it is named, recorded, and the rest is done; nothing that was written is lost."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import read, write
from ase.neighborlist import neighbor_list
from commands import start_command
from screening import MODEL, alloys, everything, input_file, rows, screen

from dpa1_fast.screening import journal


def test_one_structure_of_many_with_nan_and_one_with_an_unknown_element(tmp_path: Path) -> None:
    structures = alloys(1500, 2)
    structures[734].positions[0, 1] = np.nan
    structures[1345] = Atoms("AlU", [[0, 0, 0], [0, 0, 2.6]])
    write(tmp_path / "in.extxyz", structures)
    done = screen("in.extxyz", "--model", MODEL, "--output", "out", "--no-report", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    table = rows(tmp_path / "out")
    assert len(table) == 1500
    failed = {r["index"]: r["error"] for r in table if r["status"] != "ok"}
    assert sorted(failed) == [734, 1345]
    assert "position of atom 0 is not finite" in failed[734]
    assert "does not know the element U" in failed[1345]
    for words in ("734", "1345", "not finite", "element U", "2 failed", "failures.csv"):
        assert words in done.stdout, words


def test_atoms_that_all_but_coincide_are_told_and_can_be_refused(tmp_path: Path) -> None:
    structures = [*alloys(3), Atoms("AlCu", [[0, 0, 0], [0, 0, 0.02]]), Atoms("Al"), *alloys(2)]
    write(tmp_path / "in.extxyz", structures)
    done = screen("in.extxyz", "--model", MODEL, "--output", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "atoms closer than 0.5 Å to each other, where models know nothing: 1 (" in done.stdout
    assert "overlapping" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    closest = [r["closest"] for r in rows(tmp_path / "out")]
    assert closest[3] == pytest.approx(0.02)
    assert closest[4] is None
    for k in (0, 1, 2, 5, 6):
        assert closest[k] == pytest.approx(np.min(neighbor_list("d", structures[k], 6.0)), abs=1e-7)
    done = screen("in.extxyz", "--model", MODEL, "--min-distance", "0.5", "--output", "no", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    table = rows(tmp_path / "no")
    assert [r["status"] for r in table] == ["ok"] * 3 + ["failed"] + ["ok"] * 3
    assert table[3]["error"] == "two atoms are 0.02 Å apart, less than --min-distance 0.5"
    done = screen("in.extxyz", "--model", MODEL, "--min-distance", "-1", "--output", "bad", cwd=tmp_path)
    assert done.returncode == 2
    assert "--min-distance is -1.0" in done.stderr


def test_the_closest_atoms_of_relaxed_structures_are_those_of_where_they_end(tmp_path: Path) -> None:
    structures = alloys(3, 4)
    write(tmp_path / "in.extxyz", structures)
    options = ("--relax", "--steps", "5", "--write", "extxyz", "--no-report", "--output", "out")
    done = screen("in.extxyz", "--model", MODEL, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ends = read(tmp_path / "out" / "results.extxyz", ":")
    for row, end in zip(rows(tmp_path / "out"), ends, strict=True):
        assert row["closest"] == pytest.approx(np.min(neighbor_list("d", end, 6.0)), abs=1e-6)


def test_an_input_that_ends_in_the_middle(tmp_path: Path) -> None:
    text = input_file(tmp_path, 40).read_text()
    (tmp_path / "in.extxyz").write_text(text[: len(text) // 2])
    write(tmp_path / "z.extxyz", alloys(5))
    done = screen("*.extxyz", "--model", MODEL, "--output", "out", "--no-report", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    table = rows(tmp_path / "out")
    (cut,) = [r for r in table if r["frame"] == -1]
    assert cut["source"] == "in.extxyz"
    assert f"after {cut['index']} structures" in cut["error"]
    assert [r["status"] for r in table if r["source"] == "z.extxyz"] == ["ok"] * 5
    assert 10 < cut["index"] < 30


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB, where one may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("a small file system can only be mounted by root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=False)


WORDS = ("in.extxyz", "--model", MODEL, "--write", "extxyz", "--no-report")


def test_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    input_file(tmp_path, 600)
    full = screen(*WORDS, "--output", "disk/out", cwd=tmp_path, small_blocks=50)
    assert full.returncode == 1
    assert full.stderr.count("\n") == 1
    assert "No space left on device" in full.stderr
    assert "structures are written and safe" in full.stderr
    safe = int(full.stderr.split("; ")[1].split()[0].replace(",", ""))
    assert 50 <= safe < 600
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    again = screen(*WORDS, "--output", "disk/out", cwd=tmp_path, small_blocks=50)
    assert again.returncode == 1, again.stderr
    assert f"600 structures ({safe:,} of them in an earlier run)" in again.stdout
    screen(*WORDS, "--output", "whole", cwd=tmp_path, small_blocks=50)
    assert everything(small_disk / "out") == everything(tmp_path / "whole")


def test_a_quota_on_the_size_of_files(tmp_path: Path) -> None:
    """The same, where nobody may mount anything: a file may not grow beyond 60 kB."""
    input_file(tmp_path, 600)
    limits = {resource.RLIMIT_FSIZE: 60_000}
    full = screen(*WORDS, "--output", "out", cwd=tmp_path, small_blocks=50, limits=limits)
    assert full.returncode == 1
    assert "File too large" in full.stderr
    assert "structures are written and safe" in full.stderr
    again = screen(*WORDS, "--output", "out", cwd=tmp_path, small_blocks=50)
    assert again.returncode == 1, again.stderr
    screen(*WORDS, "--output", "whole", cwd=tmp_path, small_blocks=50)
    assert everything(tmp_path / "out") == everything(tmp_path / "whole")


def test_the_output_folder_is_removed_while_the_job_runs(tmp_path: Path) -> None:
    input_file(tmp_path, 1500)
    process = start_command("screen", *WORDS, "--output", "out", cwd=tmp_path, small_blocks=10)
    path = tmp_path / "out" / journal.NAME
    while not path.exists() or path.read_bytes().count(b"\n") < 3:
        time.sleep(0.002)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    done = process.wait()
    assert done.returncode in (1, 2)
    assert done.stderr.count("\n") == 1
    assert "out" in done.stderr
    assert "removed" in done.stderr
    again = screen(*WORDS, "--output", "out", cwd=tmp_path, small_blocks=1000)
    assert again.returncode == 1, again.stderr
    assert len(rows(tmp_path / "out")) == 1500


def test_an_output_that_cannot_be_made(tmp_path: Path) -> None:
    input_file(tmp_path, 3)
    (tmp_path / "file").write_text("")
    done = screen("in.extxyz", "--model", MODEL, "--output", "file/out", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "file/out" in done.stderr


def test_nothing_is_left_open(tmp_path: Path) -> None:
    """Thousands of files of one structure each: no more are open at a time than a shell allows."""
    for k, atoms in enumerate(alloys(300)):
        write(tmp_path / f"{k:03d}.extxyz", atoms)
    limits = {resource.RLIMIT_NOFILE: 64}
    done = screen("*.extxyz", "--model", MODEL, "--output", "out", "--no-report", cwd=tmp_path, limits=limits)
    assert done.returncode == 0, done.stderr
    assert [os.path.basename(r["source"]) for r in rows(tmp_path / "out")] == [f"{k:03d}.extxyz" for k in range(300)]
