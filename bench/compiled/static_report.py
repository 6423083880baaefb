"""What every kernel compiles to on every architecture, and a model of how long it takes: no card is needed.

    python -m bench.compiled.static_report                compile what the engine launches, report

Writes ``kernel_report.json`` (a list, one row per kernel, architecture, precision and bucket of neighbour counts),
``kernel_report_totals.json`` and ``kernel_report.md``. Registers, stack, shared memory and instructions are read
from the binaries. ``model_us_per_atom``, ``limit`` and bytes are A MODEL, NOT A MEASUREMENT: ``cost.py`` says which.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.compiled import cost
from bench.compiled.compile_all import Compiler, elsewhere
from bench.compiled.launches import WATER, WATER_BUCKET, Launch, Variant, neighbors, variants
from dpa1_fast.kernels.precision import known_to
from dpa1_fast.kernels.triton.launch_configurations import BUCKETS

ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "gfx942")
PRECISIONS = known_to("triton")
QUICK = ("tf32", "bfloat16")
NOTE = "model_us_per_atom, limit and bytes are modelled from published rates, not measured; see bench/compiled/cost.py"
MOST_BYTES, MOST_RATIO = 1_400_000, 5.0
"""Bars for one evaluation of the production model: global bytes an atom, and over the least possible. They were 400,000
and 1.5 while one program took an atom through all phases, which an H100 found slower; at 3 TB/s these take 0.45 µs."""

# --- rows -------------------------------------------------------------------------------------------------------------


def configuration_of(launch: Launch) -> dict[str, int | None]:
    """Rows of a program, keys that pass by, chunk of the inner dimension, stages; None where a kernel has none."""
    c = launch.constants
    rows, passing = (
        ("BLOCK_KEYS", "BLOCK_QUERIES") if "scores_bwd" in launch.kernel else ("BLOCK_QUERIES", "BLOCK_KEYS")
    )
    return {
        "rows": c.get(rows, c.get("BLOCK_ROWS")), "keys": c.get(passing),
        "chunk": c.get("BLOCK_INNER", c.get("BLOCK_COLUMNS")), "stages": launch.options.get("num_stages"),
    }  # fmt: skip


def row(variant: Variant, precision: str, bucket: int, measured: dict[str, Any]) -> dict[str, Any]:
    """One row of the report."""
    launch = variant.launch
    out: dict[str, Any] = {
        "kernel": variant.kernel, "arch": launch.architecture, "precision": precision, "bucket": bucket,
        "evaluation": variant.evaluation, **configuration_of(launch), "warps": launch.options["num_warps"],
        "products": launch.constants.get("PREC"), "neighbors": neighbors(bucket), "model": NOTE,
    }  # fmt: skip
    if "error" in measured:
        return out | measured
    inner = ("shapes", "nest", "instructions_in_loops", "tensor_flops", "tensor_flops_in_loops")
    return out | {k: v for k, v in measured.items() if k not in inner} | cost.model(launch, measured, neighbors(bucket))


def report(
    compiler: Compiler, architectures: Sequence[str], precisions: Sequence[str], buckets: Sequence[int]
) -> list[dict[str, Any]]:
    """All rows."""
    planned = [
        (precision, bucket, v)
        for architecture in architectures
        for precision in precisions
        for bucket in buckets
        for v in variants(architecture, precision, None, neighbors(bucket))
    ]
    compiler([[v.launch] for *_, v in planned])
    return [row(v, precision, bucket, compiler.known[v.launch.key]) for precision, bucket, v in planned]


def totals(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One evaluation of the production model in each architecture, precision and bucket."""
    out = []
    for key in dict.fromkeys((r["arch"], r["precision"], r["bucket"]) for r in rows):
        every = [r for r in rows if (r["arch"], r["precision"], r["bucket"]) == key]
        mine = [r for r in every if r["evaluation"]]
        good = [r for r in mine if "error" not in r]
        moved, least = (sum(r[k] for r in good) for k in ("global_bytes_per_atom", "minimum_bytes_per_atom"))
        times = {r["kernel"]: r["model_us_per_atom"] for r in good}
        fits = all(x is not None for x in times.values()) and len(good) == len(mine)
        slowest = max(times, key=lambda k: times[k] or 0.0) if times else ""
        out.append(
            {
                "arch": key[0], "precision": key[1], "bucket": key[2], "neighbors": neighbors(key[2]),
                "model_us_per_atom": round(sum(times.values()), 4) if fits else None,
                "global_bytes_per_atom": moved, "minimum_bytes_per_atom": least,
                "bytes_over_minimum": round(moved / least, 3) if least else None,
                "bytes_ok": fits and moved <= MOST_BYTES and moved <= MOST_RATIO * least,
                "stack_bytes": max((r.get("stack_bytes", 0) for r in every), default=0),
                "fma_products": sum(r.get("fma_products", 0) for r in every),
                "errors": sum("error" in r for r in every),
                "slowest": slowest, "slowest_limit": next((r["limit"] for r in good if r["kernel"] == slowest), ""),
                "model": NOTE,
            }
        )  # fmt: skip
    return out


# --- output -----------------------------------------------------------------------------------------------------------


def _table(rows: Sequence[dict[str, Any]], columns: Sequence[str], line: Callable[[Sequence[str]], str]) -> list[str]:
    cells = [list(columns), *([_text(r.get(c)) for c in columns] for r in rows)]
    widths = [max(len(r[i]) for r in cells) for i in range(len(columns))]
    return [line([x.rjust(w) for x, w in zip(r, widths, strict=True)]) for r in cells]


def _text(x: Any) -> str:
    return "-" if x is None else f"{x:.4g}" if isinstance(x, float) else f"{x:,}" if type(x) is int else str(x)


TOTAL_COLUMNS = (
    "arch", "precision", "bucket", "model_us_per_atom", "global_bytes_per_atom", "minimum_bytes_per_atom",
    "bytes_over_minimum", "stack_bytes", "fma_products", "errors", "slowest", "slowest_limit",
)  # fmt: skip
ROW_COLUMNS = (
    "kernel", "rows", "keys", "chunk", "warps", "stages", "registers", "stack_bytes", "shared_bytes", "occupancy",
    "tensor_core_kind", "tensor_core_products", "fma_products", "global_bytes_per_atom", "minimum_bytes_per_atom",
    "model_us_per_atom", "limit",
)  # fmt: skip


def markdown(rows: Sequence[dict[str, Any]], sums: Sequence[dict[str, Any]]) -> str:
    """The report to read."""

    def table(of: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
        head, *rest = _table(of, columns, lambda r: f"| {' | '.join(r)} |")
        return "\n".join([head, "|" + "---|" * len(columns), *rest, ""])

    out = ["# What the kernels compile to", "", NOTE + ".", "", (cost.__doc__ or "").strip(), ""]
    out += ["Cards, published rates and assumptions:", ""]
    out += [f"- {k}: {v}" for k, v in cost.CARDS.items()]
    out += ["", "## One evaluation of the production model", "", table(sums, TOTAL_COLUMNS)]
    for total in sums:
        key = total["arch"], total["precision"], total["bucket"]
        if total["bucket"] == WATER_BUCKET:
            mine = [r for r in rows if (r["arch"], r["precision"], r["bucket"]) == key]
            out += [f"## {total['arch']}, {total['precision']}, up to {WATER_BUCKET} neighbours", ""]
            out.append(table(mine, ROW_COLUMNS))
    return "\n".join(out)


def write(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes the three files and prints the totals."""
    folder.mkdir(parents=True, exist_ok=True)
    sums = totals(rows)
    (folder / "kernel_report.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    (folder / "kernel_report_totals.json").write_text(json.dumps(sums, indent=1, ensure_ascii=False), encoding="utf-8")
    (folder / "kernel_report.md").write_text(markdown(rows, sums), encoding="utf-8")
    shown = [t for t in sums if t["bucket"] == WATER_BUCKET]
    print(f"{NOTE}\none evaluation of the production model, an atom with {WATER} neighbours:")
    print("\n".join(_table(shown, TOTAL_COLUMNS, "  ".join)))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compile all kernels for all architectures and report.")
    parser.add_argument("--output", type=Path, default=Path("build"), help="folder for the report")
    parser.add_argument(
        "--quick", action="store_true", help="sm_90, 128 neighbours alone; tf32 and bfloat16 unless told"
    )
    parser.add_argument("--arch", nargs="+", default=ARCHITECTURES, choices=ARCHITECTURES)
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(argv)
    code = elsewhere("bench.compiled.static_report", sys.argv[1:] if argv is None else argv)
    if code is not None:
        return code
    compiler = Compiler(options.workers)
    if options.quick:
        write(options.output, report(compiler, ("sm_90",), options.precision or QUICK, (WATER_BUCKET,)))
        return 0
    write(options.output, report(compiler, options.arch, options.precision or PRECISIONS, BUCKETS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
