"""Launch configurations that look at what they compile to, on whatever card.

The configurations that were measured, or are shipped, are compiled. A kernel that does not compile, takes more shared
memory than the card has, or needs a stack gives way to the next candidate; what was measured on this card keeps its
stack. Which one serves follows from what the candidates came out as, and that is kept (``outcomes.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..launch_candidates import fallbacks_for
from ..launch_configurations import Configurations, Kernel, LaunchConfiguration, bucket, configurations_for
from .jobs import Job, jobs_of
from .outcomes import Outcome, Outcomes
from .pool import NoWorkersError, compile_all, processors

if TYPE_CHECKING:
    from ..evaluator import TritonEvaluator

Compile = Callable[[Sequence[str]], Mapping[str, Outcome]]
"""What jobs come out as."""
MOST_WORKERS = 32
TRANSIENT = "SIGKILL"
"""In an error that another time need not bring: memory was short."""


@dataclass(frozen=True)
class Target:
    """What is compiled for.

    Attributes:
        name: of the card. architecture: "sm_90" and the like. shared_bytes: that a program may take, None where nobody
            knows.
    """

    name: str
    architecture: str
    shared_bytes: int | None = None


@dataclass(frozen=True)
class Fault:
    """Why a configuration should not serve. order: the least one is the least evil; None: it cannot serve at all."""

    what: str
    order: int | None


def fault(found: Sequence[Outcome], target: Target) -> Fault | None:
    """What is wrong with the kernels of a configuration, None where nothing is."""
    for x in found:
        if x.error:
            return Fault(f"does not compile ({x.error})", None)
        if target.shared_bytes is not None and x.shared_bytes > target.shared_bytes:
            return Fault(f"takes {x.shared_bytes} bytes of shared memory, of {target.shared_bytes}", None)
    stack = max((x.stack_bytes for x in found), default=0)
    return Fault(f"needs a stack of {stack} bytes", stack) if stack else None


class Chooser:
    """Compiles what evaluators launch before they do, and finds configurations that do.

    Args:
        target: what for. cache: Triton's folder. tell: takes a line for who waits. workers: processes, at most; None
            for one a processor. compile: has jobs compiled; by default processes do.

    Attributes:
        compiled: how many kernels were not known before.
    """

    def __init__(
        self, target: Target, cache: Path, tell: Callable[[str], None], workers: int | None = None,
        compile: Compile | None = None,
    ) -> None:  # fmt: skip
        self.target, self.tell, self.compiled = target, tell, 0
        self.triton = version("triton")
        self.outcomes = Outcomes(cache, target.architecture, self.triton)
        self.workers = workers or min(MOST_WORKERS, processors())
        self.compile: Compile = compile or (
            lambda lines: compile_all(lines, target.architecture, cache, self.workers)
        )  # fmt: skip

    def __call__(self, run: TritonEvaluator, most: int) -> Configurations:
        """Those for atoms with up to ``most`` neighbours; every kernel of theirs is compiled.

        Raises:
            ValueError: a kernel does not compile, or does not fit, however it is launched.
        """
        most = bucket(most)
        first = _first(run, most)
        measured = run.configurations is not None or str(most) in (run.tuned or {})
        try:
            return self._chosen(run, most, first, measured)
        except NoWorkersError as error:
            self.tell(f"kernels are compiled one by one as they are launched: no other process could do it ({error})")
            return first

    def ahead(self, run: TritonEvaluator, buckets: Sequence[int]) -> None:
        """Compiles what serves atoms of several neighbour counts where nothing gives way, all at once: no worker waits
        for the last kernel of each count. What gives way is told when each is asked for."""
        jobs = {job.line: job for most in buckets for job in jobs_of(run, most, _first(run, most))}
        with suppress(NoWorkersError):
            self.make(list(jobs.values()))

    def _chosen(self, run: TritonEvaluator, most: int, now: Configurations, measured: bool) -> Configurations:
        tried: dict[Kernel, list[tuple[LaunchConfiguration, Fault]]] = {}
        settled: set[Kernel] = set()
        fresh: set[Kernel | None] = set()
        while True:
            jobs = jobs_of(run, most, now)
            found, new = self.make(jobs)
            fresh |= {job.kernel for job in jobs if job.line in new}
            faults = self._faults(jobs, found, measured)
            bad = {kernel: x for kernel, x in faults.items() if kernel not in settled}
            if not bad:
                break
            self._several(run, most, now, bad, tried)
            for kernel, x in bad.items():
                tried.setdefault(kernel, []).append((now.of(kernel), x))
                after = _after(run, most, kernel, [c for c, _ in tried[kernel]])
                if not after:
                    settled.add(kernel)
                    after = [self._least_evil(kernel, tried[kernel])]
                now = now.changed(kernel, after[0])
        for kernel, those in tried.items():
            if kernel in fresh and now.of(kernel) != those[0][0]:
                self.tell(f"{self._words(kernel, *those[0])}; {now.of(kernel).words()} serves instead")
        return now

    def _several(
        self, run: TritonEvaluator, most: int, now: Configurations, bad: Mapping[Kernel, Fault],
        tried: Mapping[Kernel, Sequence[tuple[LaunchConfiguration, Fault]]],
    ) -> None:  # fmt: skip
        """Compiles as many of the next candidates at once as there are workers that would wait."""
        after = {
            k: _after(run, most, k, [*(c for c, _ in tried.get(k, ())), now.of(k)])[: max(1, self.workers // len(bad))]
            for k in bad
        }
        jobs: dict[str, Job] = {}
        known = self.outcomes.read()
        for place in range(max(map(len, after.values()))):
            trial = now
            for kernel, candidates in after.items():
                trial = trial.changed(kernel, candidates[place]) if place < len(candidates) else trial
            mine = [job for job in jobs_of(run, most, trial) if job.kernel in bad]
            if place == 0 and all(self.outcomes.key(job.line) in known for job in mine):
                return
            jobs |= {job.line: job for job in mine}
        if jobs:
            self.make(list(jobs.values()))

    def make(self, jobs: Sequence[Job]) -> tuple[dict[str, Outcome], set[str]]:
        """What jobs came out as, by line, compiled where that is not known; and of which it was not."""
        keys = {job.line: self.outcomes.key(job.line) for job in jobs}
        known = self.outcomes.read()
        if all(key in known for key in keys.values()):
            return {line: known[key] for line, key in keys.items()}, set()
        with self.outcomes.alone():
            known = self.outcomes.read()
            missing = [line for line, key in keys.items() if key not in known]
            if missing:
                plural = "" if len(missing) == 1 else "s"
                self.tell(f"compiling {len(missing)} kernel{plural} for {self.target.name}, once")
                made = {keys[line]: x for line, x in self.compile(missing).items()}
                self.outcomes.add({key: x for key, x in made.items() if TRANSIENT not in x.error})
                known |= made
                self.compiled += len(missing)
        return {line: known[key] for line, key in keys.items()}, set(missing)

    def _faults(self, jobs: Sequence[Job], found: Mapping[str, Outcome], measured: bool) -> dict[Kernel, Fault]:
        by_kernel: dict[Kernel | None, list[Outcome]] = {}
        for job in jobs:
            by_kernel.setdefault(job.kernel, []).append(found[job.line])
        out = {}
        for kernel, outcomes in by_kernel.items():
            wrong = fault(outcomes, self.target)
            if wrong is None or (wrong.order is not None and (measured or kernel is None)):
                continue
            if kernel is None:
                raise ValueError(self._cannot("a kernel", wrong))
            out[kernel] = wrong
        return out

    def _least_evil(
        self, kernel: Kernel, tried: Sequence[tuple[LaunchConfiguration, Fault]]
    ) -> LaunchConfiguration:  # fmt: skip
        can = [(x.order, k) for k, (_, x) in enumerate(tried) if x.order is not None]
        if not can:
            raise ValueError(self._cannot(kernel.words(), tried[0][1]))
        return tried[min(can)[1]][0]

    def _cannot(self, kernel: str, wrong: Fault) -> str:
        return (
            f"backend 'triton' on {self.target.name} ({self.target.architecture}) with Triton {self.triton}: {kernel} "
            f"{wrong.what}, however it is launched; install another triton, or use backend='reference'"
        )

    def _words(self, kernel: Kernel, configuration: LaunchConfiguration, wrong: Fault) -> str:
        where = f"on {self.target.name} with Triton {self.triton}"
        return f"{kernel.words()} with {configuration.words()} {wrong.what} {where}"


def _first(run: TritonEvaluator, most: int) -> Configurations:
    """Those that serve where nothing is wrong with them."""
    return run.configurations or configurations_for(run.architecture, run.precision, most, run.tuned)


def _after(run: Any, most: int, kernel: Kernel, tried: Sequence[LaunchConfiguration]) -> list[LaunchConfiguration]:
    """The candidates that are launched in other ways than all that were tried."""
    base = configurations_for(run.architecture, run.precision, most)

    def launched(x: LaunchConfiguration) -> LaunchConfiguration:
        return base.changed(kernel, x).launched(kernel, most, run.model)

    seen, out = {launched(x) for x in tried}, []
    for x in fallbacks_for(run.precision)[kernel.part][kernel.name]:
        if launched(x) not in seen:
            seen.add(launched(x))
            out.append(x)
    return out
