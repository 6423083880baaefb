"""Rarer formats are read in a process that may be ended, whatever a file does to it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import read, write

from dpa1_fast.sources import ase_process, find_sources
from dpa1_fast.sources.base import Item

ENDLESS = (
    "geometry units angstrom nocenter noautosym noautoz\n  system crystal units angstrom\n    lattice_vectors\n"
    + "      4.0999999999999996e+00 0.0000000000000000e+00 0.0000000000000000e+00\n" * 3
    + "  end\n"
    + "  C  8.0255687295199468e-02 4.2881942902387343e-01 6.0995765035406058e-01\n" * 5
    + "\nbasis noprint\n   * library 3-21G\nend\n\ntask dft energy\n"
)
"""A block of NWChem's without an end: ASE's expression for it tries all ways to divide its lines into words."""


@pytest.fixture(autouse=True)
def none_idle() -> Iterator[None]:
    """No process that another test has started."""
    for process in ase_process._idle:
        process.stop()
    ase_process._idle.clear()
    yield
    for process in ase_process._idle:
        process.stop()
    ase_process._idle.clear()


def items(path: Path) -> list[Item]:
    (source,) = find_sources([str(path)], ("Na", "Cl"))
    return list(source.read())


def idle() -> int:
    """The one process that waits for files."""
    (process,) = ase_process._idle
    return process._process.pid


def test_a_file_without_end_is_an_error_and_the_next_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    salt, endless, broken = tmp_path / "a.gen", tmp_path / "b.nwi", tmp_path / "c.gen"
    write(salt, bulk("NaCl", "rocksalt", a=5.6))
    endless.write_text(ENDLESS)
    broken.write_text("3 F\nNa\n")
    (item,) = items(salt)
    assert item.atoms is not None
    assert item.atoms == read(salt)
    first = idle()
    (item,) = items(broken)
    assert "IndexError" in str(item.error)
    assert idle() == first, "an error of the reader's ends no process"
    monkeypatch.setattr(ase_process, "SECONDS", 1.0)
    (item,) = items(endless)
    assert "ASE's reader was stopped after 1 s" in str(item.error)
    monkeypatch.undo()
    (item,) = items(salt)
    assert item.atoms == read(salt)
    assert idle() != first


def test_a_process_that_was_ended_by_others_costs_no_file(tmp_path: Path) -> None:
    salt = tmp_path / "a.gen"
    write(salt, bulk("NaCl", "rocksalt", a=5.6))
    assert items(salt)[0].error is None
    os.kill(idle(), signal.SIGKILL)
    ase_process._idle[0]._process.wait()
    assert items(salt)[0].error is None


def test_a_process_that_does_not_start_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    salt = tmp_path / "a.gen"
    write(salt, bulk("NaCl", "rocksalt", a=5.6))
    started = []
    popen = ase_process.subprocess.Popen
    monkeypatch.setattr(ase_process.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    monkeypatch.setattr(ase_process, "START", 0.0)
    assert "stopped after 0 s" in str(items(salt)[0].error)
    assert [process.poll() for process in started] == [-signal.SIGKILL]
