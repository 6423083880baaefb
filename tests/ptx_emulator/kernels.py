"""Emulated kernels in the place of those that the evaluator launches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from bench.compiled.launches import launch_of
from bench.compiled.sass import compiled
from dpa1_fast.kernels.triton.stand_ins import standing_in

from .contraction import contracted
from .machine import Machine, Schedule, programs
from .parser import Program
from .races import Finding
from .translator import Translator


@dataclass(frozen=True)
class Binary:
    """A compiled kernel: its code, and the bytes of shared memory that a program takes."""

    code: Translator
    shared: int


_BINARIES: dict[str, Binary] = {}
"""By ``Launch.key`` and whether it is contracted: compiled once a process."""


@dataclass
class Log:
    """What was seen in all launches: kernel and finding → cells; what was done; launches of each kernel."""

    findings: Counter[tuple[str, Finding]] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    launches: Counter[str] = field(default_factory=Counter)


class Emulated:
    """Stands where a kernel stands.

    Args:
    with standing_in(
        lambda name, function: Emulated(function, name, architecture, schedule, log, contract=contract)
    ):
    """

    def __init__(
        self, function: Any, name: str, architecture: str, schedule: Schedule, log: Log, *, contract: bool = False
    ) -> None:  # fmt: skip
        self.function, self.name, self.architecture = function, name, architecture
        self.schedule, self.log, self.contract = schedule, log, contract

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        names = self.function.arg_names
        return lambda *args, **kwargs: self._launch(grid, {**dict(zip(names, args, strict=False)), **kwargs})

    def _launch(self, grid: tuple[int, ...], values: dict[str, Any]) -> None:
        launch = launch_of(self.function, self.name, self.architecture, values)
        key = f"{launch.key} {self.contract}"
        if key not in _BINARIES:
            binary = compiled(launch, self.function)
            ptx = contracted(binary.asm["ptx"]) if self.contract else binary.asm["ptx"]
            _BINARIES[key] = Binary(Translator(Program(ptx)), binary.metadata.shared)
        found = _BINARIES[key]
        passed = [values[p] for p in self.function.arg_names if launch.signature[p] != "constexpr"]
        numbers = [x.data_ptr() if hasattr(x, "data_ptr") else int(x) for x in passed]
        # Triton adds parameters of its own, for memory that none of these kernels asks for.
        numbers += [0] * (found.code.program.parameters - len(numbers))
        tensors = {k: v for k, v in values.items() if hasattr(v, "data_ptr")}
        x, y, z = (*grid, 1, 1)[:3]
        machine = Machine(found.code, numbers, (x, y, z), found.shared, tensors, self.schedule)
        for at in programs(grid):
            machine.run(at)
        self.log.findings.update({(self.name, finding): n for finding, n in machine.findings.found.items()})
        self.log.done.update(machine.findings.done)
        self.log.launches[self.name] += 1


@contextmanager
def emulated(architecture: str, schedule: Schedule, *, contract: bool = False) -> Iterator[Log]:
    """All launches of evaluators in the block are emulated. architecture: "sm_80" or "sm_90"."""
    log = Log()
    with standing_in(lambda name, function: Emulated(function, name, architecture, schedule, log, contract=contract)):
        yield log
