"""NVIDIA's tools over one evaluation, where they are installed; and launch configurations tried by the clock."""

from __future__ import annotations

import csv
import io
import lzma
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from .lines import Log, read
from .place import Place
from .schedule import die_with_parent

LONGEST = ("_attention_scores_bwd_kernel", "_attention_scores_kernel")
"""The kernels that are expected to take the longest, where nothing was measured."""
METRICS = {
    "gpu__time_duration.sum": "ns",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "sm_percent",
    "gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed": "memory_percent",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "dram_percent",
    "dram__bytes.sum": "dram_bytes",
    "lts__t_bytes.sum": "l2_bytes",
    "l1tex__t_bytes.sum": "l1_bytes",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "warps_percent",
    "sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active": "tensor_percent",
    "smsp__issue_active.avg.pct_of_peak_sustained_active": "issue_percent",
    "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio": "waits_for_memory",
    "smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio": "waits_at_barriers",
    "smsp__average_warps_issue_stalled_short_scoreboard_per_issue_active.ratio": "waits_for_shared",
    "launch__registers_per_thread": "registers",
    "launch__occupancy_limit_registers": "programs_by_registers",
    "launch__occupancy_limit_shared_mem": "programs_by_shared",
}

SECTIONS = ("SpeedOfLight", "SourceCounters", "WarpStateStats", "Occupancy", "MemoryWorkloadAnalysis", "LaunchStats")
"""Of ncu's report, what says where kernels wait."""


def found(tool: str) -> str | None:
    """A tool of CUDA's, on the path or where it is usually installed."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/cuda/bin", "/opt/nvidia/nsight-compute"])
    return shutil.which(tool, path=path)


def _once(place: Place, precision: str, case: str, atoms: int) -> list[str]:
    data, scratch = str(place.data), str(place.scratch)
    return [
        sys.executable,
        "-m",
        "bench.speed.first_light.once",
        data,
        scratch,
        place.device,
        precision,
        case,
        str(atoms),
    ]


def sanitize(place: Place, log: Log, check: str, precision: str) -> None:
    """compute-sanitizer over one small evaluation."""
    step = f"sanitize-{check}-{precision}"
    tool = found("compute-sanitizer")
    if tool is None or not place.on_card:
        log.say(step, said="compute-sanitizer was not found")
        return
    report = place.scratch / f"{step}.log"
    command = [tool, "--tool", check, "--print-limit", "20", "--log-file", str(report)]
    run = subprocess.run(
        [*command, *_once(place, precision, "molecules64", 2)],
        capture_output=True,
        text=True,
        preexec_fn=die_with_parent,
    )
    text = report.read_text(errors="replace", encoding="utf-8") if report.exists() else ""
    summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", text)
    clean = bool(summary) and all(x.startswith("0 ") for x in summary) and run.returncode == 0
    first = next((x for x in text.split("=========") if "kernel" in x or "Invalid" in x), "")
    log.say(step, summary=summary or run.stderr[-400:], right=clean, said="" if clean else (first + text[:1200]))


def counters(place: Place, log: Log, precision: str) -> None:
    """What ncu counts while the two longest kernels run."""
    step = f"ncu-{precision}"
    tool = found("ncu")
    if tool is None or not place.on_card:
        log.say(step, said="ncu was not found")
        return
    rows = [
        r for r in read(place.out) if r["step"] == f"by_kernel-{precision}" and str(r.get("kernel", "")).startswith("_")
    ]
    names = [r["kernel"] for r in sorted(rows, key=lambda r: -r["us_per_atom"])][:2] or list(LONGEST)
    for name in dict.fromkeys(names):
        command = [
            tool, "--csv", "--page", "raw", "--clock-control", "none", "--kernel-name", name, "--launch-count", "2",
            "--metrics", ",".join(METRICS), *_once(place, precision, "water1536", 0),
        ]  # fmt: skip
        run = subprocess.run(command, capture_output=True, text=True, preexec_fn=die_with_parent)
        for row in _counted(run.stdout):
            log.say(step, precision=precision, kernel=name, **row)
        if run.returncode:
            log.say(step, kernel=name, error=(run.stdout + run.stderr)[-500:])


def source(place: Place, log: Log, precision: str) -> None:
    """Where each of our kernels waits, by instruction: pages of ncu's report, beside the log."""
    step = f"source-{precision}"
    tool = found("ncu")
    if tool is None or not place.on_card:
        log.say(step, said="ncu was not found")
        return
    report = place.scratch / f"{step}.ncu-rep"
    command = [
        tool, *(x for section in SECTIONS for x in ("--section", section)), "--clock-control", "none",
        "--kernel-name", "regex:^_(attention|reduced)", "--force-overwrite",
        "--export", str(report), *_once(place, precision, "water1536", 0),
    ]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, preexec_fn=die_with_parent)
    if run.returncode or not report.exists():
        log.say(step, error=(run.stdout + run.stderr)[-500:])
        return
    for page in ("details", "source"):
        command = [tool, "--import", str(report), "--page", page, "--csv"]
        text = subprocess.run(command, capture_output=True, preexec_fn=die_with_parent).stdout
        file = place.out / f"{step}-{page}.csv.xz"
        file.write_bytes(lzma.compress(text, preset=1))
        log.say(step, file=file.name, bytes=len(text))


def _counted(text: str) -> list[dict[str, Any]]:
    """Rows of ncu's table: metrics by our names, numbers as numbers."""
    lines = [x for x in text.splitlines() if x.startswith('"')]
    out = []
    for row in list(csv.DictReader(io.StringIO("\n".join(lines))))[1:]:  # the first row holds units
        kept = {}
        for metric, name in METRICS.items():
            value = (row.get(metric) or "").replace(",", "")
            if value:
                kept[name] = float(value)
        out.append(kept)
    return out


def tune(place: Place, log: Log, precision: str) -> None:
    """``dpa1-fast tune`` for water's neighbour counts; each trial is said as it is timed."""
    step = f"tune-{precision}"
    if not place.on_card:
        log.say(step, said="needs a card")
        return
    import torch

    from dpa1_fast import tuning
    from dpa1_fast.kernels import dispatch
    from dpa1_fast.kernels.triton import kernel_clock
    from dpa1_fast.kernels.triton.launch_configurations import bucket

    device = torch.device(place.device)
    torch.cuda.set_device(device)
    tuner = tuning.Tuner(place.model(), device, dispatch.card_of(device), kernel_clock.profile)

    def tell(trial: tuning.Trial, **more: Any) -> None:
        result = {"why": trial.why} if trial.us is None else {"us_per_atom": round(trial.us, 5)}
        launched = trial.launched and list(vars(trial.launched).values())
        part, name = trial.kernel
        log.say(
            step,
            precision=precision,
            part=part,
            kernel=name,
            launched=launched,
            shipped=trial.shipped,
            **result,
            **more,
        )

    outcome = tuner.tune(tuner.evaluator(precision), bucket(90), tell)
    for trial in outcome.trials:
        if trial.chosen or trial.kernel == tuning.ALL_KERNELS:
            tell(trial, chosen=trial.chosen)


def main() -> None:
    """One evaluation of a few structures; see ``once.py``."""
    import torch

    data, scratch, device, precision, case, count = sys.argv[1:7]
    place = Place(Path(data), Path(scratch), Path(scratch), device)
    from bench.speed.gpu import prepare
    from dpa1_fast.kernels.triton.compiling.functions import settled

    from .place import structures

    settled()
    model = place.model()
    chosen = structures(case)[: int(count) or None]
    out = place.engine(model, precision).run(prepare(model, chosen).to(device))
    place.wait()
    print("finite:", bool(torch.isfinite(out[2]).all()))
