"""A block's structures evaluated: rows of the summary, and structures with their results."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..engine import Engine, Result
from ..errors import StructureError
from ..prefetch import prefetch
from . import rows
from .blocks import Block
from .deviation import deviation
from .options import Options
from .sinks import Frame, Written


@dataclass
class Done:
    """A block and what came out of it."""

    block: Block
    written: Written
    atoms: int = 0
    ok: int = 0

    @property
    def failed(self) -> int:
        """Structures that could not be done."""
        return len(self.written.rows) - self.ok


@dataclass
class Evaluation:
    """How blocks are evaluated in one process.

    Args:
        engines: one a model. options: the job's.
    """

    engines: Sequence[Engine]
    options: Options

    def __call__(self, blocks: Iterable[Block]) -> Iterator[Done]:
        """Blocks in their order. The next ones are read and prepared while one is evaluated."""
        if self.options.relax or len(self.engines) > 1:
            yield from map(self.one, prefetch(blocks, depth=1))
        else:
            yield from self._streamed(blocks)

    def one(self, block: Block) -> Done:
        """A block by itself."""
        if self.options.relax:
            return self._relaxed(block)
        first, *others = self.engines
        results = [list(first.stream(_structures(block), self._uncertain, closest=True))]
        results += [list(e.stream(_structures(block))) for e in others]
        return self._done(block, [list(r) for r in zip(*results, strict=True)])

    @property
    def _uncertain(self) -> bool:
        return "uncertainty" in self.options.fields

    # --- kinds of jobs --------------------------------------------------------------------------------------------

    def _streamed(self, blocks: Iterable[Block]) -> Iterator[Done]:
        waiting: deque[Block] = deque()

        def structures() -> Iterator[Any]:
            for block in blocks:
                waiting.append(block)
                yield from _structures(block)

        results: list[list[Result | StructureError]] = []
        for result in self.engines[0].stream(structures(), self._uncertain, closest=True):
            results.append([result])
            if len(results) == len(waiting[0].items):
                yield self._done(waiting.popleft(), results)
                results = []

    def _relaxed(self, block: Block) -> Done:
        from ..dynamics.relax import relax

        o, out = self.options, _empty(block)
        given = [i.atoms for i in block.items if i.atoms is not None]
        if o.keep_symmetry:
            given = [_symmetric(atoms) for atoms in given]
        found = iter(relax(self.engines[0], given, cell=o.relax == "cell", fmax=o.fmax, steps=o.steps))
        for k, item in enumerate(block.items):
            row = rows.about(block.start.index + k, item.source, item.frame, item.atoms, self.options.keys)
            outcome = StructureError(item.source, item.error or "failed") if item.atoms is None else next(found)
            error = outcome if isinstance(outcome, StructureError) else self._too_close(outcome.result)
            if isinstance(outcome, StructureError) or error is not None:
                assert error is not None
                out.written.rows.append(row | rows.failed(error.reason))
                continue
            if o.keep_symmetry:
                assert item.atoms is not None
                outcome.atoms.set_constraint(item.atoms.constraints)
            row |= rows.done(outcome.result, outcome.atoms)
            row |= {"converged": outcome.converged, "steps": outcome.steps, "energy_before": outcome.energy_before}
            out.written.rows.append(row)
            out.written.frames.append(Frame(outcome.atoms, outcome.result, row))
        return self._completed(out)

    def _done(self, block: Block, results: Sequence[Sequence[Result | StructureError]]) -> Done:
        out = _empty(block)
        for k, (item, of_models) in enumerate(zip(block.items, results, strict=True)):
            row = rows.about(block.start.index + k, item.source, item.frame, item.atoms, self.options.keys)
            good = [r for r in of_models if isinstance(r, Result)]
            error = next((r for r in of_models if isinstance(r, StructureError)), None) or self._too_close(good[0])
            if error is not None:
                out.written.rows.append(row | rows.failed(error.reason))
                continue
            row |= rows.done(good[0], item.atoms)
            if len(good) > 1:
                row |= deviation(good)
            out.written.rows.append(row)
            out.written.frames.append(Frame(item.atoms, good[0], row))
        return self._completed(out)

    def _too_close(self, result: Result) -> StructureError | None:
        limit, closest = self.options.min_distance, result.closest
        if closest is None or closest >= limit:
            return None
        return StructureError("", f"two atoms are {closest:.3g} Å apart, less than --min-distance {limit:g}")

    def _completed(self, out: Done) -> Done:
        """Adds what ``--fields`` asks for, and drops what nobody does."""
        frames, fields = out.written.frames, self.options.fields
        out.ok, out.atoms = len(frames), sum(len(f.atoms) for f in frames)
        if "descriptor" in fields:
            found = self.engines[0].descriptors([f.atoms for f in frames])
            for frame, descriptor in zip(frames, found, strict=True):
                frame.descriptor, frame.row["descriptor"] = descriptor, descriptor.ravel()
        if "forces" in fields:
            for frame in frames:
                frame.row["forces"] = frame.result.forces.ravel()
        if self._uncertain:
            self._estimate(frames)
        if not self.options.write:
            out.written.frames = []
        return out

    def _estimate(self, frames: list[Frame]) -> None:
        """Uncertainties; of relaxed structures, which were evaluated without, anew."""
        if self.options.relax and frames:
            found = self.engines[0].evaluate([f.atoms for f in frames], uncertainty=True)
            for frame, result in zip(frames, found, strict=True):
                frame.result = replace(frame.result, uncertainty=result.uncertainty)
        for frame in frames:
            estimate = frame.result.uncertainty
            assert estimate is not None
            frame.row |= {
                "energy_std": estimate.energy_std, "force_std": estimate.force_std, "flags": " ".join(estimate.flags)
            }  # fmt: skip


def _structures(block: Block) -> Iterator[Any]:
    for item in block.items:
        yield StructureError(item.source, item.error or "failed") if item.atoms is None else item.atoms


def _symmetric(atoms: Any) -> Any:
    """Atoms made symmetric to the last digit, and held so; as they are where they have no space group."""
    if not atoms.pbc.all():
        return StructureError("", "--keep-symmetry needs a crystal, periodic along all three axes")
    if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell[:]).all()):
        return atoms  # spglib would crash; the engine says what is wrong
    from ase.constraints import FixSymmetry

    held = atoms.copy()
    held.set_constraint()
    try:
        symmetry = FixSymmetry(held)
    except Exception as error:  # spglib's own, others from version to version
        return StructureError("", f"its symmetry cannot be found ({error})")
    held.set_constraint([*atoms.constraints, symmetry])
    return held


def _empty(block: Block) -> Done:
    return Done(block, Written(block.start.block, []))
