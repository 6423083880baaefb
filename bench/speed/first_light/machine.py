"""What the machine is, and the most that it can do: nothing of ours is in these figures."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .lines import Log
from .place import Place, cores

PACKAGES = ("torch", "triton", "numpy", "scipy", "ase", "vesin", "dpa1-fast")
SMI = "name,driver_version,memory.total,clocks.max.sm,clocks.max.mem,clocks.sm,power.limit,temperature.gpu"
COPIED = 1 << 31
"""Bytes that are copied on the card."""
SIDE = {"float64": 4096, "float32": 8192, "tf32": 8192, "bfloat16": 8192, "float16": 8192}
"""Rows and columns of the matrices that are multiplied."""


def facts(place: Place, log: Log) -> None:
    """Versions, the card, and what the project takes it for."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    log.say("facts", python=platform.python_version(), cores=cores(), versions=versions)
    from dpa1_fast.kernels.cpu import library

    log.say("facts", cpu_engine=library.available(), missing=[k for k, v in versions.items() if v is None])
    if not place.on_card:
        return
    import torch
    from triton.backends.nvidia.compiler import get_ptxas_version

    p = torch.cuda.get_device_properties(place.device)
    log.say(
        "facts", device=p.name, capability=f"{p.major}.{p.minor}", multiprocessors=p.multi_processor_count,
        memory=p.total_memory, cuda=torch.version.cuda, hip=torch.version.hip, assembler=get_ptxas_version(90),
    )  # fmt: skip
    log.say("facts", smi=smi(SMI))
    from dpa1_fast.kernels import dispatch

    card = dispatch.card_of(torch.device(place.device))
    known = torch.version.hip is not None or card.architecture == f"sm_{p.major}{p.minor}"
    log.say("facts", card=vars(card), architecture_right=known)


def smi(query: str) -> dict[str, str]:
    """What the driver's tool says of the first card; nothing where there is none."""
    try:
        run = subprocess.run(
            ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"],
            capture_output=True, text=True, check=True, timeout=20,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(query.split(","), [x.strip() for x in run.stdout.splitlines()[0].split(",")], strict=False))


def ceilings(place: Place, log: Log) -> None:
    """Bytes a second of a copy, and operations a second of torch's matrix products, on random data."""
    import torch

    device = torch.device(place.device)
    small = not place.on_card
    us, count = _copied(place, COPIED >> (8 if small else 0), device)
    log.say("ceilings", copy_TB_per_s=float(f"{2 * count / us / 1e6:.4g}"), bytes=count)
    for name, side in SIDE.items():
        n = 256 if small else side
        dtype: Any = getattr(torch, "float32" if name == "tf32" else name)
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        torch.mm(a, b, out=out)
        us, _ = place.timed(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), repeats=20, spell=1.0)
        log.say("ceilings", precision=name, tflops=float(f"{2 * n**3 / us / 1e6:.4g}"), side=n)
    torch.backends.cuda.matmul.allow_tf32 = False


def _copied(place: Place, count: int, device: Any) -> tuple[float, int]:
    """µs of a copy of so many bytes, and these."""
    import torch

    source = torch.empty(count, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    return place.timed(lambda: target.copy_(source), repeats=20, spell=1.0)[0], count
