"""Compiles many launches at a time, each once, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from queue import SimpleQueue
from typing import Any

from bench.compiled import sass
from bench.compiled.launches import Launch


def elsewhere(module: str, arguments: Sequence[str]) -> int | None:
    """The exit code of a module that compiles, run in a process of its own where this one is to interpret.

    Interpreted kernels can't be compiled, and what they are is settled when they are imported.
    """
    if os.environ.get("TRITON_INTERPRET"):
        clean = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        return subprocess.run([sys.executable, "-m", module, *arguments], env=clean).returncode
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # what unset means, without the warning
    return None


def until_stack(launches: Sequence[Launch], stop: bool) -> list[dict[str, Any]]:
    """Measures launches, only up to the first that needs a stack where ``stop`` is given."""
    out: list[dict[str, Any]] = []
    for launch in launches:
        out.append(sass.measure(launch))
        if stop and out[-1].get("stack_bytes", 1):
            break
    return out


def in_workers(tasks: Sequence[tuple[Sequence[Launch], bool]], workers: int) -> list[list[dict[str, Any]]]:
    """``until_stack`` of each task; a compiler that takes its process down costs one task."""
    pools: SimpleQueue[list[ProcessPoolExecutor]] = SimpleQueue()

    def fresh() -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, get_context("spawn"))

    for _ in range(workers):
        pools.put([fresh()])
    done = iter(range(1, len(tasks) + 1))

    def one(task: tuple[Sequence[Launch], bool]) -> list[dict[str, Any]]:
        slot = pools.get()
        try:
            return slot[0].submit(until_stack, *task).result()
        except BrokenProcessPool:
            slot[0] = fresh()
            return [{"error": "the compiler crashed"}]
        finally:
            pools.put(slot)
            if (n := next(done)) % 20 == 0:
                print(f"  {n} of {len(tasks)}", flush=True)

    with ThreadPoolExecutor(workers) as threads:
        out = list(threads.map(one, tasks))
    for _ in range(workers):
        pools.get()[0].shutdown()
    return out


class Compiler:
    """Measures every launch once."""

    def __init__(self, workers: int) -> None:
        self.workers, self.known = workers, dict[str, dict[str, Any]]()

    def __call__(self, tasks: Sequence[Sequence[Launch]], stop: bool = False) -> None:
        """Measures what is not known yet; with ``stop`` a task ends at its first launch that needs a stack."""
        todo = []
        seen = set(self.known)
        for task in tasks:
            if stop and any(self.known.get(x.key, {}).get("stack_bytes") for x in task):
                continue
            new = [x for x in task if x.key not in seen]
            if not stop:
                seen |= {x.key for x in new}
            todo += [(new, True)] if stop and new else [([x], False) for x in new]
        for (launches, _), results in zip(todo, in_workers(todo, self.workers), strict=True):
            self.known |= {x.key: r for x, r in zip(launches, results, strict=False)}
