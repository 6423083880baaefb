"""What the README shows works as shown."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def run(command: str, cwd: Path) -> str:
    words = shlex.split(command, comments=True)
    assert words[0] == "dpa1-fast"
    done = subprocess.run(
        [sys.executable, "-m", "dpa1_fast.cli", *words[1:]], capture_output=True, text=True, cwd=cwd, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_example_screens_the_example_structures(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    command = next(b for b in blocks("bash") if "dpa1-fast screen" in b).strip()
    shown = run(command.replace("*.extxyz", "'*.extxyz'"), tmp_path)
    table = pq.read_table(tmp_path / "results" / "summary.parquet").to_pylist()
    assert len(table) >= 40
    assert all(row["status"] == "ok" for row in table)
    assert "lowest 10 in energy per atom" in shown
    assert f"{len(table)} structures" in shown
    # A copper-rich phase lies lowest in total energy, and bulk is more stable than its surface.
    energies = {(Path(r["source"]).stem, r["frame"]): r["energy_per_atom"] for r in table}
    assert energies["elements", 6] < energies["surfaces_and_clusters", 1]


def test_the_other_commands(tmp_path: Path) -> None:
    block = next(b for b in blocks("bash") if "dpa1-fast info" in b)
    for command in block.strip().splitlines():
        run(command, tmp_path)
    assert (tmp_path / "model.dp").exists()


def test_the_python_blocks_run_one_after_another() -> None:
    space: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), space)
    assert len(space["results"]) == 3  # type: ignore[arg-type]
    assert space["force"].shape == (4, 12, 3)  # type: ignore[attr-defined]


def test_the_python_blocks_of_the_page_on_screening_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    text = (ROOT / "docs" / "screening.md").read_text()
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "screening.md", "exec"), space)
    assert len(space["table"]) == space["outcome"].statistics.ok >= 40
