"""What the README's commands and examples give is what it says; that they run at all is ``test_book.py``'s."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from commands import run_command
from test_book import blocks

ROOT = Path(__file__).parents[1]
BLOCKS = blocks(ROOT / "README.md")


def test_the_first_example_screens_the_example_structures(tmp_path: Path) -> None:
    command = next(code for _, code, _ in BLOCKS if "dpa1-fast screen" in code).split()
    assert command[2] == "examples/structures/*.extxyz"
    inputs = sorted((ROOT / "examples" / "structures").glob("*.extxyz"))
    done = run_command("screen", *inputs, *command[3:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table = pq.read_table(tmp_path / "results" / "summary.parquet").to_pylist()
    assert len(table) >= 40
    assert all(row["status"] == "ok" for row in table)
    assert "lowest 10 in energy per atom" in done.stdout
    assert f"{len(table)} structures" in done.stdout
    # A copper-rich phase lies lowest in total energy, and bulk is more stable than its surface.
    energies = {(Path(r["source"]).stem, r["frame"]): r["energy_per_atom"] for r in table}
    assert energies["elements", 6] < energies["surfaces_and_clusters", 1]


def test_the_example_in_python_gives_two_results() -> None:
    space: dict[str, Any] = {}
    exec(compile(next(code for language, code, _ in BLOCKS if language == "python"), "README.md", "exec"), space)
    assert [r.forces.shape for r in space["results"]] == [(4, 3), (2, 3)]
