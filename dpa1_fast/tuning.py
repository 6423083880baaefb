"""``dpa1-fast tune``: times the candidate tiles on this card, and keeps the winners where the engine looks for them.

Forces judge before the clock does: a tile that does not compile, gives NaN, or other forces than the tiles that the
package ships, is rejected and named. What is timed are atoms with exactly as many neighbours as a bucket stands for, at
random places: for the kernels' speed it does not matter where.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import devices
from .config import DPA1Config
from .errors import BackendError
from .kernels import dispatch
from .kernels.triton import configuration_cache
from .kernels.triton.launch_configurations import BUCKETS, CANDIDATES, Tile, Tiles, tiles_for
from .structures.batch import Batch

if TYPE_CHECKING:
    from rich.table import Table

    from .model import DPA1

TOLERANCE = {"float64": 1e-10, "float32": 2e-5, "tf32": 3e-3, "bfloat16": 2e-2, "float16": 3e-3}
"""How far the forces of two tiles may be apart, RMS over RMS: they sum in another order, nothing else."""
DIRECTIONS = ("forward", "backward")
NO_GPU = "no GPU was found: tune times kernels, so it has to run where torch sees one"
ATOMS = 4096
"""Enough to keep any card busy."""
GAIN = 0.98
"""A tile replaces the shipped one where it takes less than this share of its time; less is noise."""
WARM_UP, REPEATS = 2, 7


@dataclass(frozen=True)
class Trial:
    """One tile, for one direction at one precision and bucket; the other direction had the best that was known.

    Attributes:
        us: µs an atom, both directions together; None where it was rejected. why: it was.
        shipped: what the package would take. chosen: the fastest.
    """

    precision: str
    bucket: int
    direction: str
    tile: Tile
    us: float | None = None
    why: str = ""
    shipped: bool = False
    chosen: bool = False


def gpu(device: str) -> tuple[torch.device, dispatch.Card]:
    """The card that is to be timed.

    Raises:
        BackendError: there is none, or not the one that was asked for.
    """
    if not torch.cuda.is_available():
        raise BackendError(NO_GPU)
    found = devices.resolve(device)
    if found.type != "cuda":
        raise BackendError(f"tune times kernels on a GPU, not on {found.type}")
    torch.cuda.set_device(found)
    return found, dispatch.card_of(found)


def seconds(call: Callable[[], Any]) -> float:
    """How long the current card takes for a call; the median of a few."""
    for _ in range(WARM_UP):
        call()
    taken = []
    for _ in range(REPEATS):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        call()
        stop.record()
        stop.synchronize()
        taken.append(float(start.elapsed_time(stop)) / 1e3)
    return statistics.median(taken)


# --- what is timed ------------------------------------------------------------------------------------------------


def buckets(config: DPA1Config) -> list[int]:
    """The neighbour counts, of those that tiles are chosen for, that a model can have."""
    return [b for b, before in zip(BUCKETS, (0, *BUCKETS), strict=False) if before < config.nsel]


def atoms_with(config: DPA1Config, neighbors: int, atoms: int) -> Batch:
    """A batch of so many atoms, each with so many neighbours, which lie anywhere within the cut-off."""
    random = torch.Generator().manual_seed(neighbors)
    edges = atoms * neighbors
    direction = torch.nn.functional.normalize(torch.randn(edges, 3, dtype=torch.float64, generator=random))
    nearest = 0.25 * config.rcut
    distance = nearest + (config.rcut - nearest) * torch.rand(edges, 1, dtype=torch.float64, generator=random)
    return Batch(
        types=torch.randint(0, config.ntypes, (atoms,), generator=random),
        structure=torch.zeros(atoms, dtype=torch.int64),
        offsets=torch.tensor([0, atoms]),
        active=torch.ones(atoms, dtype=torch.bool),
        center=torch.arange(atoms).repeat_interleave(neighbors),
        neighbor=torch.randint(0, atoms, (edges,), generator=random),
        vector=direction * distance,
        first_edge=torch.arange(atoms + 1) * neighbors,
        n_filled=torch.full((atoms,), neighbors),
        nsel=config.nsel,
        fparam=torch.zeros(1, f, dtype=torch.float64) if (f := config.fitting.numb_fparam) else None,
        aparam=torch.zeros(atoms, a, dtype=torch.float64) if (a := config.fitting.numb_aparam) else None,
    )


# --- tuning -------------------------------------------------------------------------------------------------------


class Tuner:
    """Times tiles for a model on a card.

    Args:
        model: whose. device, card: see ``gpu``. clock: seconds that a call takes; it makes the call.
        candidates: direction → tiles; by default those of ``launch_configurations.py`` for the card's maker.
        atoms: timed.
    """

    def __init__(
        self,
        model: DPA1,
        device: torch.device,
        card: dispatch.Card,
        clock: Callable[[Callable[[], Any]], float],
        candidates: dict[str, list[Tile]] | None = None,
        atoms: int = ATOMS,
    ) -> None:
        self.model, self.device, self.card, self.clock, self.atoms = model, device, card, clock, atoms
        amd = (card.architecture or "").startswith("gfx")
        self.candidates = candidates or {k: [Tile(*x) for x in CANDIDATES[k][amd]] for k in DIRECTIONS}

    def tune(self, precision: str, tell: Callable[[str], None] = lambda text: None) -> list[Trial]:
        """All trials of a precision.

        Raises:
            BackendError: kernels are interpreted in this process.
        """
        try:
            dispatch.load_triton(self.device)
        except ValueError as error:
            raise BackendError(str(error)) from None
        from .kernels.triton.evaluator import TritonEvaluator

        card, config = self.card, self.model.config
        run = TritonEvaluator(
            self.model.weights(), precision, self.device, card.architecture, card.programs, card.chunk_bytes
        )
        out = []
        for bucket in buckets(config):
            tell(f"{precision}, up to {bucket} neighbours …")
            batch = atoms_with(config, min(bucket, config.nsel), self.atoms).to(self.device)
            out += self._bucket(run, precision, bucket, batch)
        return out

    def _bucket(self, run: Any, precision: str, bucket: int, batch: Batch) -> list[Trial]:
        shipped = best = tiles_for(self.card.architecture, precision, bucket)
        first, forces = self._time(run, shipped, batch, None, precision)
        if isinstance(first, str):
            why = f"the shipped tiles are no judge: {first}"
            return [Trial(precision, bucket, d, getattr(shipped, d), why=why, shipped=True) for d in DIRECTIONS]
        out, least = [], first
        for direction in DIRECTIONS:
            known = getattr(shipped, direction)
            trials = [Trial(precision, bucket, direction, known, us=least, shipped=True)]
            for tile in self.candidates[direction]:
                if tile == known:
                    continue
                found, _ = self._time(run, replace(best, **{direction: tile}), batch, forces, precision)
                us, why = (None, found) if isinstance(found, str) else (found, "")
                trials.append(Trial(precision, bucket, direction, tile, us, why))
            fastest = min((t for t in trials if t.us is not None), key=lambda t: t.us or 0.0)
            if not fastest.us or fastest.us >= GAIN * least:
                fastest = trials[0]
            best, least = replace(best, **{direction: fastest.tile}), fastest.us or least
            out += [replace(t, chosen=t is fastest) for t in trials]
        return out

    def _time(
        self, run: Any, tiles: Tiles, batch: Batch, judge: Tensor | None, precision: str
    ) -> tuple[float | str, Tensor | None]:
        """µs an atom, or why not, and forces."""
        run.tiles = tiles
        try:
            forces = run(batch)[2].cpu()
            if not bool(torch.isfinite(forces).all()):
                return "NaN", None
            if judge is not None:
                off = float((forces - judge).square().mean().sqrt() / judge.square().mean().sqrt().clamp_min(1e-300))
                if not off <= TOLERANCE[precision]:
                    return f"forces differ by {off:.1e} of their RMS", None
            return 1e6 * self.clock(lambda: run(batch)) / len(batch.types), forces
        except Exception as error:  # a tile that doesn't compile or fit must not take the others with it
            reason = (str(error).strip().splitlines() or [""])[-1][:80]
            return f"{type(error).__name__}: {reason}", None


def chosen(trials: Sequence[Trial]) -> configuration_cache.Tuned:
    """The winners, as they are kept."""
    out: configuration_cache.Tuned = {}
    for t in trials:
        if t.chosen:
            out.setdefault(t.precision, {}).setdefault(str(t.bucket), {})[t.direction] = t.tile
    return out


# --- the command --------------------------------------------------------------------------------------------------


def _words(tile: Tile) -> str:
    return f"{tile.rows} × {tile.keys} × {tile.chunk} × {tile.block}, {tile.warps} warps"


def table(trials: Sequence[Trial]) -> Table:
    """Winner against shipped, a line for each precision, bucket and direction."""
    from rich.table import Table

    out = Table(title="tiles: rows × keys × chunk × block; µs per atom, whole evaluation")
    for name in ("precision", "neighbours", "direction", "shipped", "µs/atom", "fastest", "µs/atom", "times faster"):
        out.add_column(name, justify="right" if name in ("neighbours", "µs/atom", "times faster") else "left")
    for own in (t for t in trials if t.shipped):
        same = (own.precision, own.bucket, own.direction)
        best = next((t for t in trials if t.chosen and (t.precision, t.bucket, t.direction) == same), None)
        head = (own.precision, f"≤ {own.bucket}", own.direction, _words(own.tile))
        if best is None or not best.us or not own.us:
            out.add_row(*head, "–", own.why, "–", "–")
        else:
            now = "the same" if best.shipped else _words(best.tile)
            out.add_row(*head, f"{own.us:.3g}", now, f"{best.us:.3g}", f"{own.us / best.us:.2f}")
    return out


def tune_command(path: str, head: str | None, precisions: Sequence[str], device: str) -> int:
    """What a user sees. Exit code 0, or 1 where a precision could not be tuned.

    Raises:
        DPA1Error: no GPU, no model, an unknown precision. OSError: the file can't be written.
    """
    from rich.console import Console

    from .checkpoint import read_model

    place, card = gpu(device)
    for precision in precisions:
        try:
            dispatch.check_precision(precision, "triton")
        except ValueError as error:
            raise BackendError(str(error)) from None
    model = read_model(path, head).model
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{card.name}: {path}")
    tuner = Tuner(model, place, card, seconds, atoms=ATOMS)
    trials = [t for p in precisions for t in tuner.tune(p, lambda text: console.print(f"[dim]{text}[/]"))]
    console.print(table(trials))
    for t in trials:
        if t.why and not t.shipped:
            console.print(
                f"rejected: {t.precision}, ≤ {t.bucket}, {t.direction}, {_words(t.tile)}: {t.why}", markup=False
            )
    found = chosen(trials)
    if found:
        kept = configuration_cache.path_for(card.name, model.config)
        configuration_cache.write(kept, found)
        console.print(f"{kept}: written; engines made from now on use it. Delete it to go back.")
    return int(set(found) != set(precisions))
