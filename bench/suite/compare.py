"""Has something become slower? This tree against another revision, in pairs, or against a saved run.

    python -m bench.suite.compare --against HEAD~1              a git revision, checked out under build/compare/
    python -m bench.suite.compare --against OTHER/FOLDER        another checkout, compiled as it is
    python -m bench.suite.compare --against build/bench.json    what ``make bench`` saved
    … --only neighbour                                          benchmarks whose name contains that

Each side has a process of its own and runs the same suite; both take turns, with a third process of the old side as an
unchanged control. A benchmark is slower where the 99 % interval of the ratio lies above 1.05, and does so again in new
processes. Exit code 1 where one is slower or wrong, 0 otherwise. Nothing absolute is asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .benchmark import load
from .ratio import NOISE, Ratio, ratio

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "compare"
SAMPLE = 0.04
"""Seconds that one sample averages over."""
FEWEST, MOST = 8, 60
"""Pairs of samples of a benchmark."""
COMPILED = ("kernels/cpu/native", "setup.py")
SAVED = 0.2
"""A slow-down against a saved run is one beyond this part and the scatter of both: nothing was paired."""


class Side:
    """A process that times with one tree's package."""

    def __init__(self, root: Path) -> None:
        worker = Path(__file__).with_name("worker.py")
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(worker), str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **threads, "PYTHONPATH": ""}, cwd=root,
        )  # fmt: skip
        self.about = self._answer()

    def time(self, name: str, runs: int) -> dict[str, Any]:
        """Seconds a run, or why there are none."""
        assert self.process.stdin is not None
        print(f"{name}\t{runs}", file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("error: a process that times stopped; its message stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


@dataclass(frozen=True)
class Verdict:
    """How a benchmark went: ratios of the new side and of the control to the old one, or why there are none."""

    name: str
    ratio: Ratio | None = None
    control: Ratio | None = None
    seconds: float = 0.0
    said: str = ""
    wrong: bool = False

    @property
    def bad(self) -> bool:
        """Whether the comparison fails for it."""
        slower = self.ratio is not None and self.ratio.slower
        moved = self.control is not None and self.control.slower  # then the machine did it
        return self.wrong or (slower and not moved)


def paired(name: str, new: Side, old: Side, control: Side) -> Verdict:
    """Times a benchmark in turns until the verdict is clear."""
    sides = {"new": new, "old": old, "control": control}
    runs = 1
    for label, side in sides.items():
        first = side.time(name, 1)
        if "wrong" in first and label == "new":
            return Verdict(name, said=first["wrong"], wrong=True)
        if "seconds" not in first:
            side_said = "this tree" if label == "new" else "the other tree"
            return Verdict(
                name, said=f"not compared, {side_said}: {first.get('lacks') or first['wrong']}", wrong=label == "new"
            )
        runs = max(runs, round(SAMPLE / max(first["seconds"], 1e-7)))
    took: dict[str, list[float]] = {label: [] for label in sides}
    for k in range(MOST):
        order = list(sides) if k % 2 else list(reversed(sides))  # whoever comes first meets another cache
        for label in order:
            took[label].append(sides[label].time(name, runs)["seconds"])
        if k + 1 >= FEWEST and k % 4 == 3 and ratio(took["new"], took["old"]).settled:
            break
    return Verdict(
        name, ratio(took["new"], took["old"]), ratio(took["control"], took["old"]), statistics.median(took["new"])
    )


def compare(other: Path, names: Sequence[str], tell: Console) -> list[Verdict]:
    """All benchmarks of these names in pairs; what seems slower is timed again in new processes."""
    verdicts: list[Verdict] = []
    suspects = list(names)
    for attempt in ("", "again"):
        if not suspects:
            break
        with ExitStack() as stack:
            new, old, control = (stack.enter_context(Side(root)) for root in (ROOT, other, other))
            for name in suspects:
                verdict = paired(name, new, old, control)
                verdicts = [v for v in verdicts if v.name != name] + [verdict]
                tell.print(f"[dim]{attempt} {name}: {_said(verdict)}[/dim]".replace("[dim] ", "[dim]"), soft_wrap=True)
        suspects = [v.name for v in verdicts if v.bad and not v.wrong]
    order = {name: k for k, name in enumerate(names)}
    return sorted(verdicts, key=lambda v: order[v.name])


def saved(path: Path, names: Sequence[str]) -> list[Verdict]:
    """This tree against a file of ``make bench``, corrected by the control's time in both."""
    rows = {
        b["param"] if b.get("param") else b["name"]: b
        for b in json.loads(path.read_text(encoding="utf-8"))["benchmarks"]
    }
    by_name = {key.removeprefix("test_benchmark[").removesuffix("]"): b["stats"] for key, b in rows.items()}
    verdicts = []
    with Side(ROOT) as new:
        machine = _scale(new, by_name)
        for name in names:
            if name not in by_name or name.startswith("control"):
                continue
            first = new.time(name, 1)
            if "seconds" not in first:
                verdicts.append(Verdict(name, said=first.get("wrong") or first.get("lacks", ""), wrong=True))
                continue
            runs = max(1, round(SAMPLE / max(first["seconds"], 1e-7)))
            took = sorted(new.time(name, runs)["seconds"] / machine for _ in range(FEWEST))
            old = by_name[name]
            quarter = len(took) // 4
            low, high = took[quarter] / old["q3"] / (1 + SAVED) * NOISE, took[-1 - quarter] / old["q1"]
            middle = statistics.median(took)
            verdicts.append(Verdict(name, Ratio(middle / old["median"], low, high), seconds=middle * machine))
    return verdicts


def _scale(side: Side, rows: dict[str, Any]) -> float:
    """How much slower the machine is than when the run was saved."""
    name = "control/numpy"
    if name not in rows:
        raise SystemExit(f"error: the saved run has no {name}; save it with make bench")
    return statistics.median(side.time(name, 10)["seconds"] for _ in range(FEWEST)) / float(rows[name]["median"])


@contextmanager
def tree(against: str) -> Iterator[Path]:
    """The folder of a revision with its compiled engine; a folder is taken as it is."""
    if (Path(against) / "dpa1_fast").is_dir():
        yield Path(against).resolve()
        return
    git = ["git", "-C", str(ROOT)]
    found = subprocess.run([*git, "rev-parse", "--verify", f"{against}^{{commit}}"], capture_output=True, text=True)
    if found.returncode:
        raise SystemExit(f"error: {against} is no revision, no folder of a checkout and no file of make bench")
    revision = found.stdout.strip()
    folder = FOLDER / revision[:12]
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([*git, "worktree", "prune"], check=True)
        subprocess.run(
            [*git, "worktree", "add", "--detach", "--force", str(folder), revision], check=True, capture_output=True
        )
    if not list(folder.glob("kernels/cpu/_native_*.so")):
        if subprocess.run([*git, "diff", "--quiet", revision, "--", *COMPILED]).returncode == 0:
            for built in ROOT.glob("kernels/cpu/_native_*.so"):  # the same sources: the same machine code
                shutil.copy(built, folder / "kernels" / "cpu")
        else:
            print(f"compiling the engine of {revision[:12]}, once", file=sys.stderr)
            build = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
            subprocess.run(build, check=True, cwd=folder, capture_output=True)
    yield folder


def _said(v: Verdict) -> str:
    if v.ratio is None:
        return v.said
    verdict = "slower" if v.bad else "faster" if v.ratio.high < 1 / NOISE else "as fast"
    return f"{v.ratio.median:.2f} ({v.ratio.low:.2f} to {v.ratio.high:.2f}) times the time, {verdict}"


def table(verdicts: Sequence[Verdict], against: str) -> Table:
    """All verdicts."""
    out = Table(title=f"time here over time of {against}", title_justify="left", box=None)
    for name, justify in (
        ("benchmark", "left"),
        ("time here", "right"),
        ("ratio", "right"),
        ("99 %", "right"),
        ("control", "right"),
        ("", "left"),
    ):
        out.add_column(name, justify=justify, no_wrap=name != "benchmark")  # type: ignore[arg-type]
    for v in verdicts:
        if v.ratio is None:
            out.add_row(v.name, "", "", "", "", "[red]wrong[/red]" if v.wrong else "not compared")
            continue
        control = "" if v.control is None else f"{v.control.median:.2f}"
        took = f"{1e3 * v.seconds:.3g} ms"
        span = f"{v.ratio.low:.2f} – {v.ratio.high:.2f}"
        out.add_row(v.name, took, f"{v.ratio.median:.2f}", span, control, "[red]slower[/red]" if v.bad else "")
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--against", required=True, help="a git revision, a checkout's folder, or a file of make bench")
    parser.add_argument("--only", default="", help="benchmarks whose name contains this")
    parser.add_argument("--large", action="store_true", help="the large ones too")
    chosen = parser.parse_args(arguments)
    names = [n for n, e in load().items() if chosen.only in n and (chosen.large or not e.large)]
    if not names:
        raise SystemExit(f"error: no benchmark has {chosen.only!r} in its name; names are: {', '.join(load())}")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    if Path(chosen.against).is_file():
        verdicts = saved(Path(chosen.against), names)
    else:
        with tree(chosen.against) as other:
            verdicts = compare(other, names, console)
    console.print(table(verdicts, chosen.against))
    bad = [v.name for v in verdicts if v.bad]
    console.print(
        f"slower or wrong: {', '.join(bad)}" if bad else f"nothing is slower ({len(verdicts)} benchmarks)",
        soft_wrap=True,
    )
    return int(bool(bad))


if __name__ == "__main__":
    raise SystemExit(main())
