"""Blocks evaluated by many engines, on this machine or on a cluster, by Ray.

The driver reads and writes; what travels are blocks to engines and results back, so machines need no common disk. A
block whose engine is lost is given to another one. Results come in the order of the input, so journal and outputs are
those of a job without Ray, to the byte.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Iterator
from typing import Any

from ..checkpoint import read_model
from ..engine import Engine
from ..errors import DPA1Error
from .blocks import Block
from .evaluate import Done, Evaluation
from .options import OptionError, Options
from .sinks import Written

LOCAL = "local"
IN_FLIGHT = 2
"""Blocks that an engine has at a time: one in work, and one so that it need not wait."""
ATTEMPTS = 4
"""How often a block is tried; one that loses so many engines is to blame itself."""
OBJECT_STORE = 1 << 28


class WorkerError(DPA1Error, RuntimeError):
    """Engines of a cluster that can't be had, or are lost again and again."""


class Worker:
    """An engine on some machine; a Ray actor.

    Args:
        models: in memory. options: the job's. threads: of the CPU engine.
    """

    def __init__(self, models: list[Any], options: Options, threads: int) -> None:
        engines = [
            Engine(
                m, device=options.device, backend=options.backend, precision=options.precision, threads=threads,
                dispersion=options.dispersion,
            )
            for m in models
        ]  # fmt: skip
        self._evaluation = Evaluation(engines, options)

    def runs_on(self) -> tuple[str, str]:
        """Backend and kind of device."""
        engine = self._evaluation.engines[0]
        return engine.backend, engine.device.type

    def evaluate(self, block: Block) -> tuple[Written, int, int]:
        """What is written of a block, its atoms, and how many of its structures could be done."""
        done = self._evaluation.one(block)
        return done.written, done.atoms, done.ok


class RayEvaluation:
    """Evaluates blocks on a Ray cluster.

    Args:
        options: ``ray`` is "local" or an address, ``workers`` how many engines (by default one a GPU, or one for every
            two cores, of what the cluster has).
        runs_on: backend and kind of device that the job says of itself; engines that are another are refused.

    Raises:
        OptionError: Ray is not installed, or nobody answers at the address.
    """

    def __init__(self, options: Options, runs_on: tuple[str, str]) -> None:
        self.options, self.runs_on = options, runs_on
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anyone
        try:
            import ray
        except ImportError:
            raise OptionError("--ray needs Ray: pip install 'dpa1-fast[ray]'") from None
        self._ray: Any = ray
        self._new: Any = None

    def __call__(self, blocks: Iterable[Block]) -> Iterator[Done]:
        """Blocks in their order, whichever engine is done first."""
        self._connect()
        try:
            yield from self._run(iter(blocks), self._engines())
        finally:
            self._ray.shutdown()

    def _connect(self) -> None:
        if found := re.fullmatch(r"(?:ray://)?([^:/]+):(\d+)", self.options.ray or ""):
            try:  # Ray itself would ask for minutes
                socket.create_connection((found[1], int(found[2])), timeout=10).close()
            except OSError as error:
                raise OptionError(f"no Ray cluster at {self.options.ray!r} ({error.strerror or error})") from None
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if self.options.ray == LOCAL:
                cores = max(os.cpu_count() or 1, self.options.workers or 1)
                self._ray.init(
                    num_cpus=cores, include_dashboard=False, object_store_memory=OBJECT_STORE, address=LOCAL, **quiet
                )
            else:
                self._ray.init(address=self.options.ray, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise OptionError(f"no Ray cluster at {self.options.ray!r} ({str(error)[:200]})") from None

    def _engines(self) -> list[Any]:
        has = self._ray.cluster_resources()
        cores, gpus = int(has.get("CPU", 1)), int(has.get("GPU", 0))
        on_gpu = gpus > 0 and self.options.device != "cpu"
        count = self.options.workers or (gpus if on_gpu else max(1, cores // 2))
        share = max(1, cores // count)
        threads = self.options.threads or share
        actor = self._ray.remote(Worker).options(num_cpus=min(threads, share), num_gpus=1 if on_gpu else 0)
        models = self._ray.put([read_model(m, self.options.head).model for m in self.options.models])
        self._new = lambda: actor.remote(models, self.options, threads)
        engines = [self._new() for _ in range(count)]
        for backend, device in set(self._ray.get([engine.runs_on.remote() for engine in engines])):
            if (backend, device) != self.runs_on:
                mine = " on ".join(self.runs_on)
                raise WorkerError(
                    f"engines of the cluster are {backend} on {device}, and this job is {mine}, as on the machine that "
                    "gave the command: name --device and --backend that both have, or start it where the engines are"
                )
        return engines

    def _run(self, blocks: Iterator[Block], engines: list[Any]) -> Iterator[Done]:
        given: dict[Any, tuple[Block, Any, int]] = {}  # reference → block, its engine, attempts so far
        ready: dict[int, Done] = {}
        free = engines * IN_FLIGHT
        following: int | None = None
        while True:
            while free and len(ready) < IN_FLIGHT * len(engines) and (block := next(blocks, None)) is not None:
                following = block.start.block if following is None else following
                engine = free.pop(0)
                given[engine.evaluate.remote(block)] = (block, engine, 1)
            if not given:
                return
            for reference in self._ray.wait(list(given), num_returns=1)[0]:
                block, engine, attempts = given.pop(reference)
                try:
                    ready[block.start.block] = Done(block, *self._ray.get(reference))
                except self._ray.exceptions.RayActorError as error:
                    if attempts >= ATTEMPTS:
                        raise WorkerError(self._lost(block, error)) from None
                    engine = self._instead(engines, free, engine)
                    given[engine.evaluate.remote(block)] = (block, engine, attempts + 1)
                else:
                    free.append(engine if engine in engines else engines[0])
            while following in ready:
                yield ready.pop(following)
                following += 1

    def _instead(self, engines: list[Any], free: list[Any], lost: Any) -> Any:
        """The engine that takes the place of a lost one: a new one, where there is none yet."""
        if lost not in engines:  # it had another block, which said so first
            return engines[-1]
        engines.remove(lost)
        engines.append(self._new())
        free[:] = [engines[-1] if engine is lost else engine for engine in free]
        return engines[-1]

    def _lost(self, block: Block, error: Exception) -> str:
        first, last = block.items[0], block.items[-1]
        return (
            f"the structures from {first.source}:{first.frame} to {last.source}:{last.frame} lost {ATTEMPTS} engines "
            f"({' '.join(str(error).split())[:200]}); what was written before is safe"
        )
