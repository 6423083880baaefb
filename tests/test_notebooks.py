"""The notebooks run from top to bottom, as they are, and what starts from a notebook is not hindered by it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
QUICK = [p for p in NOTEBOOKS if p.stem not in ("fine_tune", "lammps")]


def run(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Runs all cells one after another in a copy of the notebook's surroundings; returns their names."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.setattr(pyplot, "show", lambda: pyplot.close("all"))
    (folder / "examples" / "notebooks").mkdir(parents=True)
    (folder / "examples" / "structures").symlink_to(ROOT / "examples" / "structures")
    monkeypatch.chdir(folder / "examples" / "notebooks")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    space: dict[str, Any] = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), path.name, "exec"), space)
    return space


@pytest.mark.parametrize("path", QUICK, ids=[p.stem for p in QUICK])
def test_notebooks_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(path, tmp_path, monkeypatch)


@pytest.mark.slow
def test_fine_tuning_makes_the_model_better_at_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = run(ROOT / "examples" / "notebooks" / "fine_tune.ipynb", tmp_path, monkeypatch)
    assert space["after"]["mae_f"] < space["before"]["mae_f"]


@pytest.mark.drivers
def test_the_notebook_of_lammps_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(ROOT / "examples" / "notebooks" / "lammps.ipynb", tmp_path, monkeypatch)


def test_a_notebooks_backend_of_matplotlib_keeps_nobody_from_drawing() -> None:
    code = "import os; from dpa1_fast.plotting import can_draw; assert can_draw(); print(os.environ['MPLBACKEND'])"
    environment = os.environ | {"MPLBACKEND": "module://of.another.environment"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "module://of.another.environment", done.stderr
