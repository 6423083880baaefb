"""What ``dpa1-fast tune`` does: tries candidates for each kernel's launch on this card, and finds the fastest.

Forces judge before the clock does: a candidate that does not compile, gives NaN, or other forces than what the package
ships, is rejected and named. The kernels' times add up and do not influence one another, so each kernel is varied by
itself beside the shipped ones of all others, and the winners are judged once more together. What is timed are atoms
with exactly as many neighbours as a bucket stands for, at random places: for the kernels' speed it does not matter
where.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import devices
from .config import DPA1Config
from .errors import BackendError
from .kernels import dispatch
from .kernels.precision import PRECISIONS
from .kernels.triton.kernel_clock import Clock, by_kernel
from .kernels.triton.launch_candidates import Candidates, candidates_for
from .kernels.triton.launch_configurations import (
    BUCKETS,
    Configurations,
    Kernel,
    LaunchConfiguration,
    configurations_for,
)
from .structures.batch import Batch

if TYPE_CHECKING:
    from .model import DPA1

NO_GPU = "no GPU was found: tune times kernels, so it has to run where torch sees one"
ATOMS = 4096
"""Enough to keep any card busy."""
GAIN = 0.98
"""A candidate replaces the shipped one where it takes less than this share of its time; less is noise."""
ALL_KERNELS = Kernel("", "all kernels")
"""Of a trial that is about no single one."""


@dataclass(frozen=True)
class Trial:
    """One configuration of one kernel; all others had the shipped ones.

    Attributes:
        kernel: which, or ``ALL_KERNELS``. configuration: as it is kept. launched: the same as these atoms and widths
            need it, see ``LayerConfigurations.fitted``; both None for all kernels at once.
        us: µs an atom that this kernel takes; None where it was rejected. why: it was.
        shipped: what the package would take. chosen: the fastest.
    """

    precision: str
    bucket: int
    kernel: Kernel
    configuration: LaunchConfiguration | None = None
    launched: LaunchConfiguration | None = None
    us: float | None = None
    why: str = ""
    shipped: bool = False
    chosen: bool = False


@dataclass(frozen=True)
class Outcome:
    """Of one precision and bucket.

    Attributes:
        trials: the shipped one of each kernel, followed by its candidates.
        configurations: what is to be kept, None where nothing could be judged.
        lost: the card answers this process no more, so nothing else can be tried in it.
    """

    trials: list[Trial]
    configurations: Configurations | None = None
    lost: bool = False


@dataclass(frozen=True)
class Measured:
    """What a run gave: forces (n, 3) in eV/Å on the host, and µs an atom of each kernel that is launched."""

    forces: Tensor
    us: dict[Kernel, float]


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


def answers(device: torch.device) -> bool:
    """Whether a device still computes: after a misaligned address, say, a process never hears from its card again."""
    try:
        return float((torch.ones(1, device=device) + 1).cpu()) == 2.0
    except RuntimeError:
        return False


# --- what is timed ------------------------------------------------------------------------------------------------


def buckets(config: DPA1Config) -> list[int]:
    """The neighbour counts, of those that launch configurations are chosen for, that a model can have."""
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
    """Tries launch configurations for a model on a card.

    Args:
        model: whose. device, card: see ``gpu``. clock: see ``kernels/triton/kernel_clock.py``. atoms: timed.
        candidates: those of ``launch_candidates.py`` where there are none.

    Raises:
        BackendError: the model has no attention, or kernels are interpreted in this process.
    """

    def __init__(
        self, model: DPA1, device: torch.device, card: dispatch.Card, clock: Clock,
        candidates: Candidates | None = None, atoms: int = ATOMS,
    ) -> None:  # fmt: skip
        self.model, self.device, self.card, self.clock, self.atoms = model, device, card, clock, atoms
        self.candidates = candidates
        if not model.config.attn_layer:
            raise BackendError("this model has no attention, and there is a choice for kernels of attention alone")
        try:
            dispatch.load_triton(device)
        except ValueError as error:
            raise BackendError(str(error)) from None

    def evaluator(self, precision: str) -> Any:
        """What ``tune`` times."""
        from .kernels.triton.evaluator import TritonEvaluator

        card = self.card
        return TritonEvaluator(self.model.weights(), precision, self.device, card.architecture, card.chunk_bytes)

    def tune(self, run: Any, bucket: int, tell: Callable[[Trial], None] = lambda trial: None) -> Outcome:
        """All candidates of all kernels, for atoms with up to ``bucket`` neighbours. tell: hears of each trial."""
        n = min(bucket, self.model.config.nsel)
        batch = atoms_with(self.model.config, n, self.atoms).to(self.device)
        shipped = best = configurations_for(run.architecture, run.precision, bucket)
        known = self._measure(run, batch, shipped, None)
        if isinstance(known, str):
            return self._no_judge(run, bucket, known)
        candidates = self.candidates or candidates_for(run.precision)
        out: list[Trial] = []
        for kernel, us in known.us.items():
            trials: list[Trial] = []
            own: LaunchConfiguration = shipped.of(kernel)
            for tried in (own, *candidates[kernel.part][kernel.name]):
                variant = shipped.changed(kernel, tried)
                trial = Trial(run.precision, bucket, kernel, tried, variant.launched(kernel, n, run.model))
                if not trials:
                    trial = replace(trial, us=us, shipped=True)
                elif trial.launched in [t.launched for t in trials]:
                    continue
                else:
                    found = self._measure(run, batch, variant, known.forces)
                    trial = replace(trial, why=found) if isinstance(found, str) else replace(trial, us=found.us[kernel])
                tell(trial)
                trials.append(trial)
                if trial.why and not answers(self.device):
                    return Outcome([*out, *trials], lost=True)
            fastest = _fastest(trials)
            best = best.changed(kernel, fastest.configuration or own)
            out += [replace(t, chosen=t is fastest) for t in trials]
        together = known if best == shipped else self._measure(run, batch, best, known.forces)
        if isinstance(together, str):
            why = f"the fastest of each at once: {together}"
            out = [replace(t, chosen=t.shipped) for t in out]
            out.append(Trial(run.precision, bucket, ALL_KERNELS, why=why))
            return Outcome(out, shipped, lost=not answers(self.device))
        return Outcome(out, best)

    def _no_judge(self, run: Any, bucket: int, why: str) -> Outcome:
        trial = Trial(run.precision, bucket, ALL_KERNELS, why=f"what is shipped is no judge: {why}", shipped=True)
        return Outcome([trial], lost=not answers(self.device))

    def _measure(self, run: Any, batch: Batch, configurations: Configurations, judge: Tensor | None) -> Measured | str:
        """What it gave, or why it is rejected."""
        run.configurations = configurations
        try:
            forces = run(batch)[2].cpu()
            if not bool(torch.isfinite(forces).all()):
                return "NaN"
            if judge is not None:
                off = float((forces - judge).square().mean().sqrt() / judge.square().mean().sqrt().clamp_min(1e-300))
                if not off <= PRECISIONS[run.precision].reordered:
                    return f"forces differ by {off:.1e} of their RMS"
            coordinates = run.model.coordinates is not None and not run.too_near(batch)
            launches = self.clock(lambda: run(batch))
        except Exception as error:  # one that doesn't compile or fit must not take the others with it
            reason = (str(error).strip().splitlines() or [""])[-1][:80]
            return f"{type(error).__name__}: {reason}"
        seconds = by_kernel(launches, self.model.config.attn_layer, coordinates)
        return Measured(forces, {k: 1e6 * s / len(batch.types) for k, s in seconds.items()})


def _fastest(trials: list[Trial]) -> Trial:
    """The shipped one, which comes first, unless another is faster by more than noise."""
    own, best = trials[0], min((t for t in trials if t.us is not None), key=lambda t: t.us or 0.0)
    return best if (best.us or 0.0) < GAIN * (own.us or 0.0) else own
