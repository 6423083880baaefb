"""ASE's rarer readers in a process of their own, which may be ended: some run for ever over a damaged file.

A regular expression that tries every way to split a text cannot be stopped from within its own process.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from .reading import Damaged, reason

START = 180.0
"""Seconds until the process must be there: it imports ASE, perhaps on a busy machine."""

SECONDS, SECONDS_PER_BYTE = 10.0, 5e-6
"""How long a structure may take: of a file of so many bytes the first one may mean all of it."""

MEMORY, MEMORY_PER_BYTE = 2**31, 40
"""By how many bytes the process may grow."""


class AseProcess:
    """A process that reads files with ASE, one after another, for one caller at a time.

    Attributes:
        owner: the process that made it. busy: whether it reads a file, or ended over one.
    """

    def __init__(self) -> None:
        self.owner, self.busy = os.getpid(), False
        self._end, child = Pipe()
        code = f"from {__name__} import serve; serve({child.fileno()})"
        # The package is found where this process found it.
        path = os.pathsep.join(p for p in sys.path if p)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", code], pass_fds=[child.fileno()], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        child.close()
        try:
            self._answer(START)
        except BaseException:
            self.stop()
            raise

    def structures(self, path: Path, kind: str, skip: int) -> Iterator[Any]:
        """The ``ase.Atoms`` of a file from number ``skip`` on.

        Raises:
            Damaged: what ASE's reader raises, in words, or that it took too long or too much memory.
        """
        size = path.stat().st_size
        self.busy = True
        self._end.send((str(path), kind, skip, size))
        while self.busy:
            said, what = self._answer(SECONDS + size * SECONDS_PER_BYTE)
            self.busy = said == "structure"
            if said == "error":
                raise Damaged(what)
            if self.busy:
                yield what

    def _answer(self, seconds: float) -> tuple[str, Any]:
        try:
            if self._end.poll(seconds):
                answer: tuple[str, Any] = self._end.recv()
                return answer
        except (EOFError, OSError):
            raise Damaged(f"the process that read it with ASE ended (exit code {self._process.wait()})") from None
        raise Damaged(f"ASE's reader was stopped after {seconds:.0f} s; the file is damaged, or take another format")

    def usable(self) -> bool:
        """Whether it waits for files here: a fork has its parent's list and not its processes; others may end one."""
        return self.owner == os.getpid() and self._process.poll() is None

    def stop(self) -> None:
        """Ends the process, whatever it is doing."""
        self._end.close()
        self._process.kill()
        self._process.wait()


_LOCK = threading.Lock()
_idle: list[AseProcess] = []


def read_elsewhere(path: Path, kind: str, skip: int) -> Iterator[Any]:
    """As ``AseProcess.structures``, by a process that is kept for the next file."""
    with _LOCK:
        _idle[:] = [p for p in _idle if p.usable()]
        process = _idle.pop() if _idle else None
    process = process or AseProcess()
    try:
        yield from process.structures(path, kind, skip)
    finally:
        if process.busy:
            process.stop()
        else:
            with _LOCK:
                _idle.append(process)


@atexit.register
def _stop_all() -> None:
    for process in _idle:
        if process.owner == os.getpid():
            process.stop()


def serve(descriptor: int) -> None:
    """The process itself: answers until nobody asks any more."""
    from .ase_file import images

    end: Connection[Any, Any] = Connection(descriptor)
    end.send(("ready", None))
    while True:
        try:
            name, kind, skip, size = end.recv()
        except EOFError:
            return
        _limit(MEMORY + MEMORY_PER_BYTE * size)
        try:
            for atoms in images(Path(name), kind, skip):
                end.send(("structure", atoms))
            end.send(("end", None))
        except Exception as error:  # ASE's readers raise anything
            end.send(("error", reason(error)))


def _limit(more: int) -> None:
    """Memory that the process may have from here on, where the system can say so."""
    try:
        import resource

        used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + more if hard < 0 else min(used + more, hard), hard))
    except (ImportError, OSError, ValueError):
        return
