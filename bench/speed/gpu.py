"""Parity, speed, memory and launches on this machine's GPU, in one command.

    make bench-gpu                          the named systems (a few minutes); table, build/bench_gpu.json and .png
    python -m bench.speed.gpu --only water192     the cases whose name contains that
    python -m bench.speed.gpu --large             up to 98,304 atoms as well

The judge is the reference in float64, on the CPU (for large cases on the card). A precision whose forces are wrong gets
no speed. The model is the se_atten example's, with a hard softmax: such models magnify the rounding of the switch for
neighbours within 3e-4 Å of the cut-off (docs/parity.md). So forces in float64 are computed again with all atoms moved,
and where that changes them by more than the limit, this spread is the limit. DeePMD-kit takes part where ``make peer``
has installed it and its torch sees the card.

Exit status: 0, 1 where something was not right, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bench.speed.gpu_report import Row, about, table, write_json, write_picture
from dpa1_fast import devices
from dpa1_fast.errors import BackendError

if TYPE_CHECKING:
    from ase import Atoms
    from torch import Tensor

    from bench.cases import Case
    from dpa1_fast import DPA1, Engine
    from dpa1_fast.structures.batch import Batch

ROOT = Path(__file__).parents[2]
NO_GPU = "no GPU was found: run this where torch sees one (python -c 'import torch; print(torch.cuda.is_available())')"
ENGINES = {"reference": ("float64", "float32"), "triton": ("float64", "float32", "tf32", "bfloat16", "float16")}
WARM_UP = 3
MOVES = (0.37, 1.1, 2.9, 4.3, 7.3, 11.9)
"""Å along (1, 2, 3), by which structures are moved; only some moves change the last bit that matters."""
FEWEST, SPELL = 3, 8.0
"""At least so many repeats; no further one after so many seconds."""


# --- measuring ----------------------------------------------------------------------------------------------------


def seconds_on(device: torch.device, call: Callable[[], Any]) -> float:
    """How long the card takes for a call, from its first kernel to its last; on a CPU by the clock."""
    if device.type != "cuda":
        return seconds(call)
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    start.record()
    call()
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop)) / 1e3


def seconds(call: Callable[[], Any]) -> float:
    """How long a call takes by the clock."""
    before = time.perf_counter()
    call()
    return time.perf_counter() - before


def median(timed: Callable[[], float], repeats: int) -> float:
    """Of ``repeats`` timings, or as many as fit in the spell."""
    end = time.perf_counter() + SPELL
    seen: list[float] = []
    while len(seen) < repeats and (len(seen) < FEWEST or time.perf_counter() < end):
        seen.append(timed())
    return statistics.median(seen)


def kernels(device: torch.device, call: Callable[[], Any]) -> tuple[int, int] | None:
    """Kernels that a call runs, and those of them that are Triton's; None where the profiler sees none."""
    if device.type != "cuda":
        return None
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        call()
        torch.cuda.synchronize(device)
    on_card = [e.name for e in seen.events() or () if e.device_type == DeviceType.CUDA]
    ran = [name for name in on_card if not name.lower().startswith(("memcpy", "memset"))]
    # Ours are called _…_kernel; those of torch carry namespaces and argument lists.
    ours = [name for name in ran if name.startswith("_") and not name.startswith("_Z") and "_kernel" in name]
    return (len(ran), len(ours)) if ran else None


def pieces(engine: Engine, batch: Batch) -> int:
    """Chunks or tiles that a batch is cut into."""
    run: Any = engine.evaluator
    if engine.backend == "triton":
        from dpa1_fast.kernels.triton.chunks import by_neighbors

        return len(run.chunks(by_neighbors(batch).count.cpu()))
    from dpa1_fast.tiled import TILE_ELEMENTS

    return sum(1 for _ in batch.tiles(TILE_ELEMENTS, run.cost))


def released(device: torch.device) -> None:
    """Frees what earlier engines held, and counts memory anew."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


# --- parity -------------------------------------------------------------------------------------------------------


class Judge:
    """What the reference in float64 says about a case."""

    def __init__(self, model: DPA1, structures: list[Atoms], device: torch.device) -> None:
        from dpa1_fast import Engine

        engine = Engine(model, backend="reference", device=str(device))
        self.batch = prepare(model, structures)
        energies, _, forces, _ = (x.cpu() for x in engine.run(self.batch.to(device)))
        self.energies, self.forces = energies, forces
        self.spread = spread(model, structures)

    def force_error(self, forces: Tensor) -> float:
        """RMS difference over the RMS force."""
        rms = self.forces.square().mean().sqrt()
        return float((forces - self.forces).square().mean().sqrt() / rms)

    def energy_error(self, energies: Tensor) -> float:
        """eV per atom, of the worst structure."""
        off = self.batch.sum_structures(energies - self.energies).abs() / self.batch.offsets.diff()
        return float(off.max())


def spread(model: DPA1, structures: list[Atoms]) -> float:
    """How far float64 forces go, relative to the RMS force, when all atoms are moved by one vector.

    By the CPU engine, which is quick and has nothing to do with the card.
    """
    from dpa1_fast import Engine

    engine = Engine(model, device="cpu")
    still = engine.run(prepare(model, structures))[2]
    worst = 0.0
    for move in MOVES:
        moved = [a.copy() for a in structures]
        for a in moved:
            a.positions += move * np.array([1.0, 2.0, 3.0])
        off = engine.run(prepare(model, moved))[2] - still
        worst = max(worst, float(off.square().mean().sqrt() / still.square().mean().sqrt()))
    return worst


def prepare(model: DPA1, structures: list[Atoms]) -> Batch:
    """A batch on the CPU."""
    from dpa1_fast.structures.batch import collate, neighborhood
    from dpa1_fast.structures.structure import from_ase

    parts = [neighborhood(model.config, from_ase(model.config, a, str(k))) for k, a in enumerate(structures)]
    return collate(model.config, parts)


# --- rows ---------------------------------------------------------------------------------------------------------


def measure(row: Row, model: DPA1, structures: list[Atoms], judge: Judge, device: torch.device, repeats: int) -> Row:
    """A row filled in: parity first, and nothing more if that is red."""
    from dpa1_fast import Engine

    released(device)
    try:
        engine = Engine(model, backend=row.engine, device=str(device), precision=row.precision)
        batch = judge.batch.to(device)
        energies, _, forces, _ = (x.cpu() for x in engine.run(batch))
        if not bool(torch.isfinite(forces).all()):
            return replace(row, failed=True, said="NaN or overflow")
        row = replace(row, force_error=judge.force_error(forces), energy_error=judge.energy_error(energies))
        if row.parity is False:
            return row
        for _ in range(WARM_UP):
            engine.run(batch)
        released(device)
        on_card = median(lambda: seconds_on(device, lambda: engine.run(batch)), repeats)
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
        cut, ran = pieces(engine, batch), kernels(device, lambda: engine.run(batch))
        engine.evaluate(structures)
        whole = median(lambda: seconds(lambda: engine.evaluate(structures)), repeats)
    except Exception as error:  # one precision that fails must not take the others with it
        reason = (str(error).strip().splitlines() or [""])[-1][:100]
        return replace(row, failed=True, said=f"{type(error).__name__}: {reason}")
    return replace(
        row, backend_us=1e6 * on_card / row.atoms, evaluate_us=1e6 * whole / row.atoms, peak_bytes=peak, chunks=cut,
        launches=ran and ran[0] / cut, triton_launches=ran and ran[1] / cut,
    )  # fmt: skip


def case_rows(
    case: Case,
    model: DPA1,
    device: torch.device,
    repeats: int,
    engines: dict[str, tuple[str, ...]] = ENGINES,
    tell: Callable[[str], None] = lambda text: None,
) -> tuple[list[Row], Judge]:
    """Our engines on one case, and the judge."""
    structures = case.build()
    tell(f"{case.name}: the judge …")
    judge = Judge(model, structures, device if case.large else torch.device("cpu"))
    rows = []
    for engine, precisions in engines.items():
        for precision in precisions:
            tell(f"{case.name}: {engine} {precision} …")
            empty = Row(case.name, case.atoms, engine, precision, spread=judge.spread)
            rows.append(measure(empty, model, structures, judge, device, repeats))
    return rows, judge


def peer_device(peer: Path) -> str:
    """The device that DeePMD-kit would use by itself; empty if it is not installed."""
    if not peer.exists():
        return ""
    script = "from deepmd.pt.utils.env import DEVICE; print(DEVICE)"
    run = subprocess.run([str(peer), "-c", script], capture_output=True, text=True, check=False)
    return run.stdout.strip().splitlines()[-1] if run.returncode == 0 and run.stdout.strip() else ""


def peer_row(case: Case, precision: str, judge: Judge, threads: int) -> Row:
    """DeePMD-kit by its own interface, structure by structure: only the whole call can be timed."""
    from bench.speed import peer

    row = Row(case.name, case.atoms, "DeePMD-kit", precision, spread=judge.spread)
    try:
        name = {"float64": "L2", "float32": "L2_f32"}[precision]
        with peer.peers(name, case.name, threads, "default") as worker:
            worker("time")
            taken = statistics.median(worker("time") for _ in range(5))
            forces = torch.from_numpy(peer.forces(worker.results("peer_gpu")))
    except Exception as error:  # out of memory, most of the time
        reason = (str(error).strip().splitlines() or [""])[-1][:100]
        return replace(row, failed=True, said=f"{type(error).__name__}: {reason}")
    row = replace(row, force_error=judge.force_error(forces))
    return row if row.parity is False else replace(row, evaluate_us=1e6 * taken / row.atoms)


# --- the command --------------------------------------------------------------------------------------------------


def main() -> int:
    """Measures what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--large", action="store_true", help="also the cases of more than 10,000 atoms")
    parser.add_argument("--repeats", type=int, default=20, help="timed repeats after warm-up (default 20)")
    parser.add_argument("--device", default="cuda", help="which card (default cuda)")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(NO_GPU, file=sys.stderr)
        return 2
    try:
        device = devices.resolve(options.device)
    except BackendError as error:
        parser.error(str(error))
    if device.type == "cuda":
        os.environ.pop("TRITON_INTERPRET", None)  # kernels are to be compiled, whatever tests have set
        torch.cuda.set_device(device)
    from rich.console import Console

    from bench.cases import CASES, model
    from bench.speed import peer

    console = Console(width=190)
    machine, network = about(device), model()
    if against := peer_device(peer.PEER).startswith("cuda"):
        from dpa1_fast.checkpoint import read_model

        peer.FOLDER.mkdir(parents=True, exist_ok=True)
        network = read_model(peer.path_of("L2")).model
    rows: list[Row] = []
    for case in CASES.values():
        if options.only not in case.name or (case.large and not options.large):
            continue
        found, judge = case_rows(case, network, device, options.repeats, tell=lambda x: console.print(f"[dim]{x}[/]"))
        rows += found
        if against:
            released(device)
            threads = min(8, os.cpu_count() or 1)
            rows += [peer_row(case, precision, judge, threads) for precision in ("float64", "float32")]
    console.print(table(rows, machine))
    if not against:
        installed = peer.PEER.exists()
        reason = "its torch does not see the GPU" if installed else "it is not installed; run `make peer` first"
        machine["peer"] = f"DeePMD-kit was left out: {reason}"
        console.print(machine["peer"])
    folder = ROOT / "build"
    folder.mkdir(exist_ok=True)
    write_json(rows, machine, folder / "bench_gpu.json")
    if not write_picture(rows, machine, folder / "bench_gpu.png"):
        console.print("no picture: it needs matplotlib")
    return int(any(r.parity is False for r in rows if r.engine in ENGINES))


if __name__ == "__main__":
    sys.exit(main())
