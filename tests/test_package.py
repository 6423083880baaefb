"""What is installed is what a user expects, and nothing beside it."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import dpa1_fast

ROOT = Path(__file__).parents[1]


def test_the_public_surface_is_all_there() -> None:
    for name in dpa1_fast.__all__:
        assert getattr(dpa1_fast, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        dpa1_fast.nothing  # noqa: B018


def test_kernels_have_one_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    with pytest.raises(ImportError, match="import this package as dpa1_fast.kernels"):
        importlib.import_module("kernels")
    assert importlib.import_module("dpa1_fast.kernels.reference")


def test_a_bare_clone_imports_without_being_installed(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import dpa1_fast.kernels.reference, dpa1_fast; print('fine')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout.strip() == "fine", done.stderr


def test_importing_the_package_alone_does_not_wait_for_torch() -> None:
    code = "import sys, dpa1_fast; print(dpa1_fast.__version__, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [dpa1_fast.__version__, "False"]


def test_every_folder_with_modules_is_packaged() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {p.parent for top in ("dpa1_fast", "kernels") for p in (ROOT / top).rglob("*.py")}
    names = {".".join(p.relative_to(ROOT).parts) for p in folders if "kernels" not in p.relative_to(ROOT).parts[1:]}
    assert {n if n.startswith("dpa1_fast") else f"dpa1_fast.{n}" for n in names} == set(declared)


@pytest.mark.slow
def test_every_file_of_the_wheel_is_under_dpa1_fast(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert all(n.startswith(("dpa1_fast/", "dpa1_fast-")) for n in names)
    for needed in (
        "kernels/reference.py",
        "screening/job.py",
        "screening/report.html.j2",
        "checkpoint/pth.py",
        "models/almgcu-demo.safetensors",
        "py.typed",
        "kernels/cpu/native/include/dpa1_fast.h",
        "kernels/cpu/native/c_api.cpp",
        "kernels/cpu/native/dpa1_fast-config.cmake",
    ):
        assert f"dpa1_fast/{needed}" in names
    assert len(names) == len(set(names))
