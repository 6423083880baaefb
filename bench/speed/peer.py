"""Our CPU engine against DeePMD-kit on the same model files, threads and structures, in one run.

    make bench-peer                       everything (about 25 minutes); table, and build/bench_peer.json
    python bench/speed/peer.py --only water192  the cases whose name contains that

Each engine runs in a process of its own and both take turns, so that a slow moment of the machine meets both; the ratio
is that of medians. DeePMD-kit runs as installed and, in a second pair, with allocator settings that keep it from
returning memory to the system at every step. Before anything is said about speed, our forces are compared with those of
DeePMD-kit in float64; how far its own float32 is from them stands beside.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.cases import CASES, model
from dpa1_fast.benchmark.operations import total
from dpa1_fast.checkpoint import read_model, write_model
from dpa1_fast.structures.batch import neighborhood
from dpa1_fast.structures.structure import from_ase

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "bench_peer"
SHARED = ROOT.parent / "shared" / "cases" / "water"
PEER = ROOT / "build" / "peer" / "bin" / "python"
WORKER = Path(__file__).with_name("peer_worker.py")
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "20000000000",
    "MALLOC_TOP_PAD_": "500000000",
}
SETTINGS: dict[str, dict[str, str]] = {"default": {}, "allocator": ALLOCATOR}

SAME = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 2e-2, "compressed": 1e-4}
"""Largest RMS difference of forces over the RMS force for a pair to count as the same result, unless DeePMD-kit differs
by more from itself; see ``judged``."""

MODELS = {
    "L2": ("a_L2/model.pth", {}),
    "L2_f32": ("a_L2_f32/model.pth", {"precision": "float32"}),
    "L0": ("b_L0/model.pth", {"attn_layer": 0}),
    "L0_f32": ("b_L0_f32/model.pth", {"attn_layer": 0, "precision": "float32"}),
    "strip": ("d_L0strip/model.pth", {"attn_layer": 0, "tebd_input_mode": "strip"}),
    "compressed": ("d_L0strip/model_compressed.pth", None),
}


@dataclass(frozen=True)
class Pair:
    """One comparison: our model and precision, the peer's model, and the ratios that we promise.

    ``judge`` is the model whose forces, by DeePMD-kit in float64, are the truth for both.
    """

    case: str
    ours: str
    precision: str
    peer: str
    bars: dict[str, float]
    judge: str
    same: str = ""

    @property
    def name(self) -> str:
        """How the table calls it."""
        return f"{self.case} {self.ours.removesuffix('_f32')} {self.precision}"


PAIRS = [
    Pair("water192", "L2", "float64", "L2", {"default": 4.5, "allocator": 3.2}, "L2"),
    Pair("water192", "L2_f32", "float32", "L2_f32", {"default": 5.0}, "L2"),
    Pair("water1536", "L2", "float64", "L2", {"default": 8.0}, "L2"),
    Pair("water1536", "L2_f32", "float32", "L2_f32", {"default": 8.0}, "L2"),
    Pair("molecules64", "L2", "float64", "L2", {"default": 14.0}, "L2"),
    Pair("molecules64", "L2_f32", "float32", "L2_f32", {"default": 18.0}, "L2"),
    Pair("water192", "L0", "float64", "L0", {"default": 3.0}, "L0"),
    Pair("water192", "L0_f32", "float32", "L0_f32", {"default": 3.5}, "L0"),
    Pair("water192", "strip", "float64", "compressed", {"default": 2.5}, "strip", "compressed"),
]


class Worker:
    """An engine in a process of its own; see ``peer_worker.py``."""

    def __init__(self, python: Path | str, job: dict[str, Any], environment: dict[str, str]) -> None:
        threads = str(job["threads"])
        counts = {"OMP_NUM_THREADS": threads, "DP_INTRA_OP_PARALLELISM_THREADS": threads}
        self.process = subprocess.Popen(
            [str(python), str(WORKER), json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(FOLDER / "worker.log").open("w", encoding="utf-8"),
            text=True,
            env={**os.environ, **counts, "DP_INTER_OP_PARALLELISM_THREADS": threads, **environment},
        )
        self.ready = self._answer()

    def __call__(self, command: str) -> Any:
        """Sends a command and waits for its answer."""
        assert self.process.stdin is not None
        print(command, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker stopped:\n{(FOLDER / 'worker.log').read_text(encoding='utf-8')[-2000:]}")
        return json.loads(line)

    def results(self, name: str) -> dict[str, np.ndarray]:
        """What the last evaluation gave."""
        with np.load(self(f"save {FOLDER / name}.npz")) as file:
            return dict(file)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def path_of(name: str) -> Path:
    """A model file that DeePMD-kit can read: from the shared cases, else made here from a fixed seed."""
    file, options = MODELS[name]
    if (SHARED / file).exists():
        return SHARED / file
    made = FOLDER / f"{name}.pth"
    if made.exists():
        return made
    if options is None:
        source, freeze = path_of("strip"), ["compress", "-i", str(path_of("strip")), "-o", str(made)]
    else:
        source = FOLDER / f"{name}.dp"
        write_model(model(**options), source)
        freeze = ["convert-backend", str(source), str(made)]
    subprocess.run([str(PEER), "-m", "deepmd", "--pt", *freeze], check=True, capture_output=True, cwd=FOLDER)
    return made


def write_structures(case: str, type_map: tuple[str, ...], moved: float = 0.0) -> Path:
    """The structures of a case as ``peer_worker.py`` reads them, all atoms ``moved`` by so many Å along (1, 2, 3)."""
    path = FOLDER / (f"{case}_moved.npz" if moved else f"{case}.npz")
    arrays: dict[str, Any] = {}
    structures = CASES[case].build()
    for k, atoms in enumerate(structures):
        arrays[f"{k}.coord"] = atoms.positions + moved * np.array([1.0, 2.0, 3.0])
        arrays[f"{k}.cell"] = atoms.cell.array if atoms.pbc.all() else np.zeros((0, 3))
        arrays[f"{k}.type"] = np.array([type_map.index(s) for s in atoms.symbols])
    np.savez(path, count=np.array(len(structures)), **arrays)
    return path


def ours(name: str, case: str, precision: str, threads: int) -> Worker:
    """Our engine, ready."""
    structures = write_structures(case, ("O", "H"))
    job = {"engine": "dpa1_fast", "model": str(path_of(name)), "structures": str(structures), "threads": threads}
    return Worker(sys.executable, {**job, "options": {"precision": precision}}, {"PYTHONPATH": str(ROOT)})


def peers(name: str, case: str, threads: int, settings: str, moved: float = 0.0) -> Worker:
    """DeePMD-kit, ready."""
    structures = write_structures(case, ("O", "H"), moved)
    job = {"engine": "deepmd", "model": str(path_of(name)), "structures": str(structures), "threads": threads}
    return Worker(PEER, job, SETTINGS[settings])


def forces(results: dict[str, np.ndarray]) -> np.ndarray:
    """Forces of all structures (n, 3) eV/Å."""
    return np.concatenate([results[f"{k}.force"] for k in range(len(results) // 3)])


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """RMS difference over the RMS of ``b``."""
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)))


def turns(a: Worker, b: Worker, rounds: int) -> tuple[float, float]:
    """Median seconds of both, taking turns after two warm-up rounds."""
    seen = [(a("time"), b("time")) for _ in range(rounds + 2)][2:]
    first, second = np.median(seen, axis=0)
    return float(first), float(second)


@cache
def judged(model_name: str, case: str, threads: int) -> tuple[np.ndarray, float]:
    """DeePMD-kit's forces in float64, and how far they move when the whole structure is.

    Models with a hard softmax magnify rounding for neighbours within 3e-4 Å of the cut-off (docs/parity.md): there no
    two evaluations agree better than this spread.
    """
    found = []
    for moved in (0.0, 0.37, 1.1, 2.9, 7.3):
        with peers(model_name, case, threads, "allocator", moved) as judge:
            judge("time")
            found.append(forces(judge.results("judge")))
    return found[0], max(difference(x, found[0]) for x in found[1:])


def compare(pair: Pair, rounds: int, threads: int) -> list[dict[str, Any]]:
    """One row per setting of the peer."""
    rows = []
    atoms = CASES[pair.case].atoms
    truth, spread = judged(pair.judge, pair.case, threads)
    for settings in SETTINGS:
        with (
            ours(pair.ours, pair.case, pair.precision, threads) as mine,
            peers(pair.peer, pair.case, threads, settings) as other,
        ):
            seconds, theirs = turns(mine, other, rounds)
            off = difference(forces(mine.results("ours")), truth)
            peer_off = difference(forces(other.results("peer")), truth)
            memory = {"ours": mine("memory"), "peer": other("memory")}
        limit = max(SAME[pair.same or pair.precision], spread)
        row = {
            "case": pair.name, "against": f"DeePMD-kit, {settings}", "ms_per_atom": 1e3 * seconds / atoms,
            "peer_ms_per_atom": 1e3 * theirs / atoms, "force_difference": off, "peer_force_difference": peer_off,
            "peer_spread": spread, "parity": off <= limit, "ratio": theirs / seconds if off <= limit else None,
            "bar": pair.bars.get(settings), "memory": memory,
        }  # fmt: skip
        rows.append(row)
    return rows


def precision_rows(rounds: int, threads: int) -> list[dict[str, Any]]:
    """Our own precisions against each other: force error against float64, and speed."""
    rows = []
    for precision, bar in (("float32", None), ("bfloat16", 1.6)):
        base = "float64" if precision == "float32" else "float32"
        try:
            with ours("L2", "water192", precision, threads) as mine, ours("L2", "water192", base, threads) as other:
                seconds, slower = turns(mine, other, rounds)
                with ours("L2", "water192", "float64", threads) as judge:
                    judge("time")
                    off = difference(forces(mine.results("ours")), forces(judge.results("judge")))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            rows.append({"case": f"water192 L2 {precision}", "against": f"our {base}", "said": reason, "bar": bar})
            continue
        rows.append({
            "case": f"water192 L2 {precision}", "against": f"our {base}", "ms_per_atom": 1e3 * seconds / 192,
            "peer_ms_per_atom": 1e3 * slower / 192, "force_difference": off, "parity": off <= SAME[precision],
            "ratio": slower / seconds if off <= SAME[precision] else None, "bar": bar,
        })  # fmt: skip
    return rows


def rate_row(rounds: int, threads: int) -> dict[str, Any]:
    """Useful float32 operations per second over the machine's 2048³ sgemm."""
    config = read_model(path_of("L2")).model.config
    counts = np.bincount(neighborhood(config, from_ase(config, CASES["water192"].build()[0], "water192")).edges.center)
    with ours("L2", "water192", "float32", threads) as mine:
        seen = [(mine("time"), mine("sgemm")) for _ in range(rounds + 2)][2:]
    seconds, sgemm = np.median(seen, axis=0)
    rate = total(config, counts) / seconds
    said = f"{rate / 1e9:.0f} useful of {sgemm / 1e9:.0f} Gflop/s"
    return {"case": "water192 L2 float32", "against": "sgemm 2048³", "ratio": rate / sgemm, "bar": 0.6, "said": said}


def memory_row(rounds: int, threads: int) -> dict[str, Any]:
    """98,304 atoms: most memory, and time per atom against 1,536."""
    with (
        ours("L2", "water1536", "float32", threads) as small,
        ours("L2", "water98304", "float32", threads) as large,
    ):
        seen = [(np.median([small("time") for _ in range(5)]), large("time")) for _ in range(rounds)]
        held = large("memory")
    few, many = np.median(seen, axis=0) / (1536, 98304)
    said = f"{held / 1e9:.2f} GB; bar 2.5 GB, and time per atom within 10 %"
    return {
        "case": "water98304 L2 float32", "against": "our water1536", "ms_per_atom": 1e3 * many,
        "peer_ms_per_atom": 1e3 * few, "ratio": few / many, "bar": 1 / 1.1, "said": said, "memory": held,
        "parity": held <= 2.5e9,
    }  # fmt: skip


def load_row(rounds: int, threads: int) -> dict[str, Any]:
    """Seconds to import dpa1_fast and load the model, torch already imported."""
    seen = []
    for _ in range(rounds):
        with ours("L2", "water192", "float32", threads) as worker:
            seen.append((worker.ready["import"], worker.ready["load"]))
    imported, loaded = np.median(seen, axis=0)
    said = f"import {imported:.2f} s + load {loaded:.2f} s; bar 0.5 s"
    return {"case": "load L2", "against": "0.5 s", "ratio": 0.5 / (imported + loaded), "bar": 1.0, "said": said}


def show(rows: list[dict[str, Any]]) -> Table:
    """The table."""
    table = Table(title="dpa1-fast against DeePMD-kit 3.2.0 on this machine's CPU")
    for name in (
        "case",
        "against",
        "ours ms/atom",
        "theirs ms/atom",
        "force error",
        "theirs",
        "times faster",
        "bar",
        "",
    ):
        table.add_column(name, justify="left" if name in ("case", "against", "") else "right")
    for r in rows:
        number = {k: f"{r[k]:.3g}" if r.get(k) is not None else "–" for k in ("ms_per_atom", "peer_ms_per_atom", "bar")}
        off, their_off = (f"{r[k]:.1e}" if k in r else "–" for k in ("force_difference", "peer_force_difference"))
        ratio = f"{r['ratio']:.2f}" if r.get("ratio") else "–"
        if not r.get("parity", True) and "force_difference" in r:
            ratio = "[red]different results[/]"
        met = verdict(r)
        mark = "" if met is None else "[green]met[/]" if met else "[red]not met[/]"
        mark = " ".join(x for x in (mark, r.get("said", "")) if x)
        table.add_row(
            r["case"],
            r["against"],
            number["ms_per_atom"],
            number["peer_ms_per_atom"],
            off,
            their_off,
            ratio,
            number["bar"],
            mark,
        )
    return table


def verdict(row: dict[str, Any]) -> bool | None:
    """Whether a row's bar is met; None where there is none."""
    if row.get("bar") is None:
        return None
    return bool(row.get("ratio") and row["ratio"] >= row["bar"] and row.get("parity", True))


def main() -> int:
    """Runs what was asked for; exit code 0 if every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds after warm-up (default 7)")
    parser.add_argument("--threads", type=int, default=2, help="threads of both engines (default 2)")
    options = parser.parse_args()
    if not PEER.exists():
        print("DeePMD-kit is not installed: run `make peer` first", file=sys.stderr)
        return 2
    FOLDER.mkdir(parents=True, exist_ok=True)
    rounds, threads = options.rounds, options.threads
    jobs: list[tuple[str, Callable[[], Any]]] = [
        (p.name, lambda p=p: compare(p, rounds, threads))
        for p in PAIRS  # type: ignore[misc]
    ]
    jobs += [
        ("precision", lambda: precision_rows(rounds, threads)),
        ("rate", lambda: [rate_row(rounds, threads)]),
        ("load", lambda: [load_row(rounds, threads)]),
        ("memory", lambda: [memory_row(5, threads)]),
    ]
    rows: list[dict[str, Any]] = []
    console = Console(width=190)
    for name, job in jobs:
        if options.only in name:
            console.print(f"[dim]{name} …[/]")
            try:
                rows += job()
            except subprocess.CalledProcessError as error:
                said = error.stderr.decode().strip().splitlines()[-1]
                rows.append({"case": name, "against": "DeePMD-kit", "said": f"it could not prepare this model: {said}"})
    console.print(show(rows))
    about = {"threads": threads, "rounds": rounds, "processor": processor(), "pairs": [asdict(p) for p in PAIRS]}
    (ROOT / "build" / "bench_peer.json").write_text(json.dumps({**about, "rows": rows}, indent=1), encoding="utf-8")
    return int(not all(verdict(r) is not False for r in rows))


def processor() -> str:
    """The processor's name, with its widest vectors."""
    import torch

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "unknown")
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


if __name__ == "__main__":
    sys.exit(main())
