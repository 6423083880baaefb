"""``dpa1-fast tune``: what a user sees of it, and where winners are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from . import tuning
from .errors import BackendError
from .kernels import dispatch
from .kernels.triton import configuration_cache, kernel_clock
from .kernels.triton.launch_configurations import LaunchConfiguration
from .tuning import Trial, Tuner

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def words(configuration: LaunchConfiguration | None) -> str:
    """A configuration in short."""
    return "–" if configuration is None else configuration.words()


def _head(trial: Trial) -> str:
    return f"{trial.precision}, ≤ {trial.bucket}, {trial.kernel.words()}"


def table(trials: Sequence[Trial]) -> Table:
    """Winner against shipped, a line for each precision, bucket and kernel."""
    from rich.table import Table

    out = Table(title="launches: rows × chunk (× keys); µs per atom, of this kernel")
    for column in ("precision", "neighbours", "kernel", "shipped", "µs/atom", "fastest", "µs/atom", "times faster"):
        out.add_column(column, justify="right" if column in ("neighbours", "µs/atom", "times faster") else "left")
    for own in (t for t in trials if t.shipped):
        same = (own.precision, own.bucket, own.kernel)
        best = next((t for t in trials if t.chosen and (t.precision, t.bucket, t.kernel) == same), None)
        head = (own.precision, f"≤ {own.bucket}", own.kernel.words(), words(own.launched))
        if own.us is None:
            out.add_row(*head, "–", own.why, "–", "–")
        elif best is None or best.us is None:
            out.add_row(*head, f"{own.us:.3g}", "not finished", "–", "–")
        else:
            now = "the same" if best.shipped else words(best.launched)
            out.add_row(*head, f"{own.us:.3g}", now, f"{best.us:.3g}", f"{own.us / best.us:.2f}")
    return out


def progress(console: Console) -> Callable[[Trial], None]:
    """Names each kernel as it is begun, and at once what is rejected."""
    before: list[str] = []

    def tell(trial: Trial) -> None:
        if [_head(trial)] != before:
            before[:] = [_head(trial)]
            console.print(f"[dim]{_head(trial)} …[/]")
        if trial.why:
            console.print(f"rejected: {_head(trial)}, {words(trial.launched)}: {trial.why}", markup=False)

    return tell


def tune_command(path: str, head: str | None, precisions: Sequence[str], device: str) -> int:
    """Tunes all precisions and buckets, and keeps each bucket's winners as soon as they are known.

    Returns:
        Exit code 0, or 1 where something could not be tuned.

    Raises:
        DPA1Error: no GPU, no model or one without attention, an unknown precision. OSError: the file can't be written.
    """
    from rich.console import Console

    from .checkpoint import read_model

    place, card = tuning.gpu(device)
    for precision in precisions:
        try:
            dispatch.check_precision(precision, "triton")
        except ValueError as error:
            raise BackendError(str(error)) from None
    model = read_model(path, head).model
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{card.name}: {path}")
    tuner = Tuner(model, place, card, kernel_clock.profile, atoms=tuning.ATOMS)
    kept = configuration_cache.path_for(card.name, model.config)
    trials: list[Trial] = []
    done = wanted = 0
    lost = None
    for precision in precisions:
        run = None
        for bucket in tuning.buckets(model.config):
            wanted += 1
            if lost is not None:
                continue
            run = run or tuner.evaluator(precision)
            outcome = tuner.tune(run, bucket, progress(console))
            trials += outcome.trials
            if outcome.configurations is not None:
                configuration_cache.write(kept, {precision: {str(bucket): outcome.configurations}})
                done += 1
            if outcome.lost:
                lost = outcome.trials[-1]
    console.print(table(trials))
    for t in trials:
        if t.kernel == tuning.ALL_KERNELS and not t.shipped:
            console.print(f"rejected: {_head(t)}: {t.why}", markup=False)
    if lost is not None:
        console.print(
            f"stopped: after {_head(lost)}, {words(lost.launched)} ({lost.why}) the card answers this process no more; "
            "what was not finished is not judged",
            markup=False,
        )
    if done:
        console.print(f"{kept}: written; engines made from now on use it. Delete it to go back.", markup=False)
    return int(done < wanted)
