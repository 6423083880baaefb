"""What warps wait for on a card, from the CSV pages that ncu exports in a kit's run.

    python -m bench.compiled.waits bench/results/h100-2026-11-28-ncu-details-bfloat16.csv.xz \\
        bench/results/h100-2026-11-28-ncu-source-bfloat16.csv.xz

A Markdown table: one row a launch, in the order of launches. Waits are shares of the sampled warps' time.
"""

from __future__ import annotations

import csv
import lzma
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

WORDS = {
    "long_sb": "global loads", "short_sb": "shared loads", "mio": "shared queue", "barrier": "barriers",
    "wait": "fixed latency", "selected": "issuing", "not_selected": "others issue", "dispatch": "dispatch",
    "math": "math pipe", "lg": "global queue", "no_inst": "instructions",
}  # fmt: skip
SHOWN = 4


def opened(path: Path) -> TextIO:
    """A CSV, compressed or not."""
    return lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8")


def launches(details: Path) -> list[tuple[str, dict[str, str]]]:
    """Kernel and metrics by name, launch by launch."""
    found: dict[str, tuple[str, dict[str, str]]] = {}
    with opened(details) as file:
        for row in csv.DictReader(file):
            kernel = row["Kernel Name"].strip("_").removesuffix("_kernel")
            found.setdefault(row["ID"], (kernel, {}))[1].setdefault(row["Metric Name"], row["Metric Value"])
    return list(found.values())


def waits(source: Path) -> Iterator[Counter[str]]:
    """Samples by what a warp was doing, launch by launch."""
    now: Counter[str] | None = None
    head: list[str] = []
    with opened(source) as file:
        for row in csv.reader(file):
            if row and row[0] == "Kernel Name":
                if now is not None:
                    yield now
                now, head = Counter(), []
            elif row and row[0] == "Address":
                head = row
            elif head and now is not None and len(row) == len(head):
                for name, value in zip(head, row, strict=True):
                    if name.startswith("stall_") and "Not" not in name:
                        now[name.removeprefix("stall_")] += int(value or 0)
    if now is not None:
        yield now


def main(details: Path, source: Path) -> None:
    print("| kernel | µs | registers | warps, % of most | DRAM, % | a warp's time |")
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    for (kernel, m), samples in zip(launches(details), waits(source), strict=True):
        every = sum(samples.values()) or 1
        told = ", ".join(f"{WORDS.get(k, k)} {100 * n / every:.0f} %" for k, n in samples.most_common(SHOWN))
        numbers = [m["Duration"], m["Registers Per Thread"], m["Achieved Occupancy"], m["DRAM Throughput"]]
        shown = " | ".join(f"{float(x.replace(',', '')):.0f}" for x in numbers)
        print(f"| `{kernel}` | {shown} | {told} |")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
