"""Watches all launches of a block, and says what races were possible in it."""

from __future__ import annotations

import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import interpreter_hooks
import interpreter_speed
import numpy as np
import triton
from interpreter_hooks import Listener, Touched, listening
from tensor_spans import Cells, Spans
from torch import Tensor

from .phases import Access, Conflict, conflicts
from .programs import Owners

Line = tuple[str, ...]
"""Where an operation stands: "file:line", and the calls that led there, innermost first."""

CELL = 2
"""Bytes of what is told apart: the smallest element that kernels store (bfloat16)."""

NOT_KERNELS = (
    str(Path(triton.__file__).parent), interpreter_hooks.__file__, interpreter_speed.__file__,
    str(Path(__file__).parent),
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """What two operations can do to one another.

    Attributes:
        between: "threads" of a program, or "programs". kind: RAW, WAR, WAW or atomic.
        in_place: an element is loaded, and what is computed from it is stored, by the same element of a tensor.
            Whichever thread the compiler gives it to stores after its own load, so that this can't go wrong.
    """

    between: str
    kind: str
    in_place: bool
    kernel: str
    tensor: str
    earlier: Line
    later: Line

    def __str__(self) -> str:
        where = " < ".join(self.earlier), " < ".join(self.later)
        return f"{self.kind} between {self.between}: {self.kernel}, {self.tensor}\n  {where[0]}\n  {where[1]}"


class Watch(Listener):
    """Watches the launches of ``with Watch() as watch:``.

    Args:
        leave_out: besides, what would be found if each barrier were left out in turn.

    Attributes:
        findings: with how many cells each concerns. without: barrier → what is found only if it is missing.
        barriers: how often threads waited at each. launches: of each kernel. lines: that load or store.
    """

    def __init__(self, *, leave_out: bool = False) -> None:
        self.leave_out = leave_out
        self.findings: Counter[Finding] = Counter()
        self.without: defaultdict[str, Counter[Finding]] = defaultdict(Counter)
        self.barriers: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()
        self._numbers: dict[Line, int] = {}
        self._lines: list[Line] = []
        self._phase: list[Access] = []
        self._joined: dict[str, list[Access]] = {}
        self._of_program: list[Access] = []
        self._program = -1

    @property
    def hazards(self) -> Counter[Finding]:
        """Of the findings, those that can go wrong."""
        return Counter({f: n for f, n in self.findings.items() if not f.in_place})

    @property
    def lines(self) -> set[str]:
        """The source lines that load, store or wait."""
        return {line[0] for line in self._lines}

    def __enter__(self) -> Watch:
        self._context: AbstractContextManager[None] = listening(self)
        self._context.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)
        for found in self.without.values():
            for finding in self.findings:
                found.pop(finding, None)

    # --- what the interpreter tells -----------------------------------------------------------------------------------

    def launch(self, kernel: str, tensors: Mapping[str, Tensor]) -> None:
        self.launches[kernel] += 1
        self._kernel, self._cells = kernel, Cells(Spans.of(tensors), CELL)
        self._stored = np.zeros(len(self._cells), dtype=bool)
        self._owners = Owners(len(self._cells))
        self._program = -1

    def program(self) -> None:
        self._end_program()
        self._program += 1

    def finish(self) -> None:
        self._end_program()

    def access(self, touched: Touched) -> None:
        line = self._line()
        if (touched.addresses % touched.size).any():
            raise ValueError(f"{self._kernel} reaches elements of {touched.size} bytes at places between them")
        if len(touched.elements):
            cells = self._cells.of(touched.addresses, touched.size)
            elements = np.repeat(touched.elements, cells.shape[1])
            stores, origins = touched.kind == "store", touched.origins
            self._phase.append(Access(touched.number, stores, line, cells.ravel(), elements, touched.shape, origins))

    def atomic(self) -> None:
        line = self._lines[self._line()]
        self.findings[Finding("programs", "atomic", False, self._kernel, "", line, line)] += 1

    def barrier(self) -> None:
        here = self._lines[self._line()][0]
        self.barriers[here] += 1
        if self.leave_out:
            self._joined.setdefault(here, [])
        self._end_phase(here)

    # --- what follows from it -----------------------------------------------------------------------------------------

    def _line(self) -> int:
        """The number of the current source line, in kernels and what they call."""
        frame, found = sys._getframe(2), []
        while frame is not None:
            name = frame.f_code.co_filename
            if name == interpreter_hooks.__file__ and frame.f_code.co_name == "launch":
                break
            if not name.startswith(NOT_KERNELS):
                found.append(f"{os.path.basename(name)}:{frame.f_lineno}")
            frame = frame.f_back  # type: ignore[assignment] # None ends the loop
        line = tuple(found)
        if line not in self._numbers:
            self._numbers[line] = len(self._lines)
            self._lines.append(line)
        return self._numbers[line]

    def _note(self, found: Iterable[Conflict], between: str, into: Counter[Finding]) -> None:
        for x in found:
            earlier, later = self._lines[x.earlier], self._lines[x.later]
            tensor = self._cells.name(x.cell)
            into[Finding(between, x.kind, x.in_place, self._kernel, tensor, earlier, later)] += x.count

    def _end_phase(self, barrier: str | None) -> None:
        """Compares the accesses of a phase; and those of phases that a left-out barrier would join."""
        self._note(conflicts(self._phase, self._stored), "threads", self.findings)
        for left_out, joined in list(self._joined.items()):
            joined += self._phase
            if left_out != barrier:
                del self._joined[left_out]
                self._note(conflicts(joined, self._stored), "threads", self.without[left_out])
        self._of_program += self._phase
        self._phase = []

    def _end_program(self) -> None:
        if self._program >= 0:
            self._end_phase(None)
            self._note(self._owners.add(self._program, self._of_program), "programs", self.findings)
            self._of_program = []
