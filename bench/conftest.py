"""What is saved with a benchmark's figures, and the table of them that people read."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pytest


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Versions, threads and the build of the engine go into the JSON."""
    import torch

    import dpa1_fast
    from dpa1_fast.kernels.cpu import library

    machine_info["dpa1_fast"] = dpa1_fast.__version__
    machine_info["packages"] = {name: _version(name) for name in ("torch", "triton", "numpy", "ase", "vesin")}
    machine_info["torch_threads"] = torch.get_num_threads()
    machine_info["engine"] = library.library().dpa1_instructions().decode() if library.available() else None
    machine_info["processor_model"] = platform.processor() or machine_info.get("cpu", {}).get("brand_raw")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Medians, µs an atom and ns a neighbour."""
    session = getattr(config, "_benchmarksession", None)
    rows = [b for b in getattr(session, "benchmarks", ()) if not b.has_error and b.stats.data]
    if not rows:
        return
    terminalreporter.section("medians")
    terminalreporter.write_line(f"{'benchmark':68s} {'ms':>10s} {'µs/atom':>9s} {'ns/neighbour':>13s}  what")
    for b in rows:
        facts = b.extra_info
        name = b.name.removeprefix("test_benchmark[").removesuffix("]")
        per = [f"{facts[k]:.3g}" if k in facts else "" for k in ("us_per_atom", "ns_per_neighbor")]
        what = ", ".join(f"{k} {facts[k]}" for k in ("peak_mb", "structures", "model_hash") if k in facts)
        terminalreporter.write_line(f"{name:68s} {1e3 * b.stats.median:10.3g} {per[0]:>9s} {per[1]:>13s}  {what}")
