"""Compiles many kernels at a time, in processes that know nothing of the card nor of torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from ..interpreting import VARIABLE
from .outcomes import Outcome
from .worker import READY

MODULE = "dpa1_fast.kernels.triton.compiling.worker"
PACKAGE = MODULE.partition(".")[0]
LONGEST_FIRST = ("_bwd_kernel", "_kernel")
"""What takes longest is begun first, so that nobody waits for it in the end."""


class NoWorkersError(RuntimeError):
    """Processes that compile cannot be started."""


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def command(architecture: str) -> list[str]:
    """That starts a process."""
    return [sys.executable, "-m", MODULE, architecture]


class _Worker:
    """A process that compiles, one kernel after another."""

    def __init__(self, architecture: str, cache: Path) -> None:
        environment = {k: v for k, v in os.environ.items() if k != VARIABLE}
        before = environment.get("PYTHONPATH")
        here = str(Path(str(sys.modules[PACKAGE].__file__)).parents[1])  # it need not be installed
        environment["PYTHONPATH"] = os.pathsep.join([here, *([before] if before else [])])
        environment["TRITON_CACHE_DIR"] = str(cache)
        self.said = tempfile.TemporaryFile()  # noqa: SIM115 (closed when it ends)
        try:
            self.process = subprocess.Popen(
                command(architecture), env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=self.said, text=True, encoding="utf-8",
            )  # fmt: skip
        except OSError as error:
            raise NoWorkersError(f"{sys.executable}: {error}") from None
        if self._answer().strip() != READY:
            self.process.kill()
            code = self.process.wait()
            self.said.seek(0)
            last = self.said.read().decode(errors="replace").strip().splitlines()
            self.end()
            raise NoWorkersError(last[-1] if last else f"{sys.executable} ended with {code}")

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def compile(self, line: str) -> Outcome | None:
        """What came out; None where the compiler took the process down with it."""
        assert self.process.stdin is not None
        try:
            print(line, file=self.process.stdin, flush=True)
            return Outcome(**json.loads(self._answer()))
        except (OSError, json.JSONDecodeError):
            return None

    def end(self) -> int:
        """Ends it, and says how it ended."""
        self.process.kill()
        code = self.process.wait()
        for file in (self.process.stdin, self.process.stdout, self.said):
            if file is not None:
                with suppress(OSError):  # a line that nobody took
                    file.close()
        return code


def compile_all(lines: Sequence[str], architecture: str, cache: Path, workers: int) -> dict[str, Outcome]:
    """What each job came out as.

    Args:
        lines: jobs. cache: Triton's. workers: processes, at most.

    Raises:
        NoWorkersError: none could be started.
    """
    todo: SimpleQueue[str] = SimpleQueue()
    for line in sorted(lines, key=_rank):
        todo.put(line)
    found: dict[str, Outcome] = {}
    failed: list[Exception] = []
    running: list[_Worker] = []

    def serve() -> None:
        worker: _Worker | None = None
        try:
            while True:
                line = todo.get_nowait()
                if worker is None:
                    worker = _Worker(architecture, cache)
                    running.append(worker)
                out = worker.compile(line)
                if out is None:
                    out, worker = Outcome(error=_ended(worker.process.wait())), None  # the next begins anew
                found[line] = out
        except Empty:
            pass
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(min(workers, len(lines)))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        for worker in running:
            worker.end()
    if len(found) < len(lines):
        raise failed[0] if failed else NoWorkersError("no worker was left")
    return found


def _rank(line: str) -> tuple[int, str]:
    name: Any = json.loads(line)["function"]
    return next(k for k, end in enumerate(LONGEST_FIRST) if name.endswith(end)), line


def _ended(code: int) -> str:
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"the compiler crashed ({name})"
