"""Tables and pictures of docs/paper.md, from results.jsonl and nothing else.

    python examples/paper/report.py

Replaces what stands between the marks in docs/paper.md, and the pictures in docs/paper/.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import results
from sets import DFT

DOCS = Path(__file__).parents[2] / "docs"
TITLES = {
    "almgcu": "Al–Mg–Cu (CHGNet, not DFT)",
    "hea": "Cr–Mn–Fe–Co–Ni (CHGNet, not DFT)",
    "sse": "Li–Si–P–S (CHGNet, not DFT)",
    "si": "mlearn Si (DFT)",
    "mo": "mlearn Mo (DFT)",
    "acac": "acetylacetone, 300 K (DFT)",
}
PICTURES = {"curves": "learning curves", "attention": "errors by layers of attention"}
STARTS = {"pretrained": "fine-tuned", "scratch": "from scratch"}
Point = tuple[int, float, float, float]
"""Samples, and the force error (meV/Å): the mean over seeds, the smallest and the largest."""


def newest(runs: Sequence[results.Run]) -> list[results.Run]:
    """Of each experiment and start those with the model of the last line; runs with an earlier one stay in the file."""
    last = {(run["experiment"], run.get("start")): run["model"] for run in runs}
    return [run for run in runs if run["model"] == last[run["experiment"], run.get("start")]]


def curve(runs: Sequence[results.Run], name: str, start: str, what: str = "force") -> list[Point]:
    """The learning curve of one set, by rising samples."""
    found: dict[int, list[float]] = defaultdict(list)
    for run in runs:
        if run["experiment"] == "curves" and run["set"] == name and run["start"] == start:
            found[run.get("trained_on", 0)].append(run[what])
    return [(n, mean(v), min(v), max(v)) for n, v in sorted(found.items())]


def samples_needed(tuned: Sequence[Point], error: float) -> float | None:
    """How many samples bring fine-tuning to an error, between measured ones by straight lines in logarithms."""
    before: Point | None = None
    for point in tuned:
        if point[1] <= error:
            if before is None or before[0] == 0:
                return float(point[0])
            share = math.log(before[1] / error) / math.log(before[1] / point[1])
            return math.exp((1 - share) * math.log(before[0]) + share * math.log(point[0]))
        before = point
    return None


def curves_table(runs: Sequence[results.Run]) -> str:
    """Force errors by samples, and what pretraining saves."""
    lines = []
    for name in [n for n in TITLES if any(r.get("set") == n and r["experiment"] == "curves" for r in runs)]:
        tuned = curve(runs, name, "pretrained")
        counts = sorted({p[0] for start in STARTS for p in curve(runs, name, start)})
        lines += [f"| {TITLES[name]} | " + " | ".join(map(str, counts)) + " |", "| --- |" + " ---: |" * len(counts)]
        for what, unit in (("force", "meV/Å"), ("energy", "meV/atom")):
            for start, label in STARTS.items():
                by = {p[0]: p for p in curve(runs, name, start, what)}
                if what == "energy" and name in DFT:
                    by.pop(0, None)  # labels and the pretrained model count energies from other zeros
                cells = [_cell(by.get(n)) for n in counts]
                lines.append(f"| {label}, {what} RMSE ({unit}) | " + " | ".join(cells) + " |")
        rms = next(r["rms_force"] for r in runs if r.get("set") == name)
        told = (
            f"The labels' RMS force is {rms:.0f} meV/Å. {_saved(tuned, whole(runs, name))}{_longer(runs, name, tuned)}"
        )
        lines += ["", told, ""]
    return "\n".join(lines) if lines else "No run is finished yet."


def _cell(point: Point | None) -> str:
    if point is None:
        return "–"
    _, middle, low, high = point
    return f"{middle:.0f}" if high == low else f"{middle:.0f} ({low:.0f} to {high:.0f})"


def whole(runs: Sequence[results.Run], name: str) -> Point | None:
    """From scratch on all samples, where that is finished."""
    found = {r["trained_on"] for r in runs if (r.get("set"), r.get("samples"), r.get("start")) == (name, -1, "scratch")}
    return next((p for p in curve(runs, name, "scratch") if p[0] in found), None)


def _saved(tuned: Sequence[Point], most: Point | None) -> str:
    if most is None:
        return "Training from scratch on all samples is not finished, so nothing is said of samples saved."
    needed = samples_needed(tuned, most[1])
    if needed is None:
        return f"Fine-tuning does not reach the error from scratch at all {most[0]} samples."
    told = f"Fine-tuning reaches the error from scratch at all {most[0]} samples with {needed:.0f}"
    return f"{told}: {needed / most[0]:.2f} of them."


def _longer(runs: Sequence[results.Run], name: str, tuned: Sequence[Point]) -> str:
    """What more steps on all samples come to."""
    found = [r for r in runs if (r["experiment"], r.get("set")) == ("longer", name)]
    scratch, more = ([r for r in found if r["start"] == start] for start in ("scratch", "pretrained"))
    if not scratch:
        return ""
    error = mean(r["force"] for r in scratch)
    needed = samples_needed(tuned, error)
    reached = "does not reach" if needed is None else f"reaches with {needed:.0f} samples"
    told = f" From scratch for {scratch[0]['steps']:,} steps on all of them: {error:.0f} meV/Å"
    told += f" and {mean(r['energy'] for r in scratch):.0f} meV/atom; the force error is one that fine-tuning {reached}"
    if more:
        energy = mean(r["energy"] for r in more)
        told += f", and for as many steps is at {mean(r['force'] for r in more):.0f} meV/Å and {energy:.0f} meV/atom"
    return told + "."


def attention_table(runs: Sequence[results.Run]) -> str:
    """Errors by the number of layers, at equal processor time."""
    found: dict[tuple[str, int], list[results.Run]] = defaultdict(list)
    for run in runs:
        if run["experiment"] == "attention":
            found[run["set"], run["layers"]].append(run)
    if not found:
        return "No run is finished yet."
    lines = [
        "| set | layers | steps | force RMSE (meV/Å) | energy RMSE (meV/atom) |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for (name, layers), group in sorted(found.items()):
        force, energy = (" / ".join(f"{r[k]:.1f}" for r in group) for k in ("force", "energy"))
        steps = " / ".join(f"{r['steps']:,}" for r in group)
        lines.append(f"| {TITLES[name]} | {layers} | {steps} | {force} | {energy} |")
    return "\n".join(lines)


def elements_table(runs: Sequence[results.Run]) -> str:
    """Correlations of type embeddings with the periodic table."""
    found = [r for r in runs if r["experiment"] == "elements"]
    if not found:
        return "No run is finished yet."
    lines = ["| model (sha256) | elements | Spearman | p (permuted) | random models: mean ± sd, largest of 100 |",
             "| --- | ---: | ---: | ---: | --- |"]  # fmt: skip
    for r in found:
        chance = f"{r['random_mean']:.3f} ± {r['random_sd']:.3f}, {r['random_max']:.3f}"
        lines.append(f"| `{r['model']}` | {r['elements']} | {r['spearman']:.3f} | {r['p']:.4f} | {chance} |")
    return "\n".join(lines)


def cost(runs: Sequence[results.Run]) -> str:
    """How many runs there are and what they cost."""
    seconds = sum(r.get("seconds", 0.0) for r in runs)
    return f"{len(runs)} runs are in the file; together they took {seconds / 60:.0f} minutes of processor time."


def draw(runs: Sequence[results.Run], folder: Path) -> list[Path]:
    """The pictures that there are results for."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    made = []
    trained = {r["set"] for r in runs if r["experiment"] == "curves" and r["samples"]}
    names = [n for n in TITLES if n in trained]
    if names:
        wide = min(3, len(names))
        tall = -(-len(names) // wide)
        figure, axes = plt.subplots(tall, wide, figsize=(4.6 * wide, 3.9 * tall), squeeze=False, layout="constrained")
        for axis, name in zip(axes.flat, names, strict=False):
            _curves(axis, runs, name)
        for axis in axes.flat[len(names) :]:
            axis.set_axis_off()
        made.append(_saved_as(figure, folder / "curves.png"))
    if layers := [r for r in runs if r["experiment"] == "attention"]:
        figure, axis = plt.subplots(figsize=(5, 3.8), layout="constrained")
        for name in sorted({r["set"] for r in layers}):
            points = [(r["layers"], r["force"]) for r in layers if r["set"] == name]
            axis.plot(*zip(*points, strict=True), "o", label=TITLES[name])
        axis.set(xlabel="layers of attention", ylabel="force RMSE (meV/Å)", xticks=range(4))
        axis.set_ylim(0, 1.15 * max(r["force"] for r in layers))
        axis.legend()
        made.append(_saved_as(figure, folder / "attention.png"))
    return made


def _curves(axis: Any, runs: Sequence[results.Run], name: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    for start, label, colour in (("pretrained", "fine-tuned", "C0"), ("scratch", "from scratch", "C3")):
        points = curve(runs, name, start)
        trained = [p for p in points if p[0] > 0]
        if trained:
            n, middle, low, high = zip(*trained, strict=True)
            axis.plot(n, middle, "o-", color=colour, label=label)
            axis.fill_between(n, low, high, color=colour, alpha=0.2, linewidth=0)
        for p in points:
            if p[0] == 0:
                axis.axhline(p[1], color=colour, linestyle=":", label="pretrained, no sample")
    for r in runs:
        if (r["experiment"], r.get("set")) == ("longer", name):
            colour = "C0" if r["start"] == "pretrained" else "C3"
            axis.plot(r["trained_on"], r["force"], "*", color=colour, markersize=12, label=f"{r['steps']:,} steps")
    axis.set(xscale="log", yscale="log", xlabel="samples", ylabel="force RMSE (meV/Å)", title=TITLES[name])
    counts = sorted({p[0] for start in STARTS for p in curve(runs, name, start)} - {0})
    apart = [n for n, after in zip(counts, [*counts[1:], math.inf], strict=True) if after > 1.4 * n]  # legible
    axis.set_xticks(apart, [str(n) for n in apart])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 7.0)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8)


def _saved_as(figure: Any, path: Path) -> Path:
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)
    return path


def filled(page: str, parts: dict[str, str]) -> str:
    """A page with each part between its marks."""
    for name, text in parts.items():
        marks = f"<!-- {name} -->", f"<!-- end of {name} -->"
        pattern = re.compile(re.escape(marks[0]) + ".*?" + re.escape(marks[1]), re.DOTALL)
        page, count = pattern.subn(lambda _, t=text, m=marks: f"{m[0]}\n{t.strip()}\n{m[1]}", page)
        assert count == 1, name
    return page


def main(arguments: Sequence[str] | None = None) -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=results.FILE)
    parser.add_argument("--docs", type=Path, default=DOCS)
    given = parser.parse_args(arguments)
    runs = newest(results.read(given.results))
    parts = {
        "curves": curves_table(runs),
        "attention": attention_table(runs),
        "elements": elements_table(runs),
        "cost": cost(runs),
    }
    page = given.docs / "paper.md"
    made = draw(runs, given.docs / "paper")
    for path in made:
        parts[path.stem] += f"\n\n![{PICTURES[path.stem]}](paper/{path.name})"
    page.write_text(filled(page.read_text(encoding="utf-8"), parts), encoding="utf-8")
    print("wrote " + ", ".join(map(str, (page, *made))))


if __name__ == "__main__":
    main()
