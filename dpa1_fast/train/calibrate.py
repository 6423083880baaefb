"""A model's uncertainty from its training set, calibrated on validation data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint import find, read_model, write_model
from ..checkpoint.own import description
from ..engine import Engine
from ..kernels.outputs import Outputs, OutputsWithHidden
from ..model import DPA1
from ..structures.batch import Batch
from ..uncertainty import FORCE_FLOOR, Uncertainty, deviation, fitted, inverse_root, scores, sizes, with_calibration
from .data import Dataset
from .loss import Labels
from .options import TrainingError
from .validation import whole

BATCH_ATOMS = 2048


@dataclass(frozen=True)
class Calibration:
    """What calibration came to, on the validation data: spreads of standardised errors (1 is right)."""

    uncertainty: Uncertainty
    energy_spread: float
    force_spread: float


def calibrate(model: DPA1, train: Dataset, valid: Dataset) -> Calibration:
    """The uncertainty of a model.

    Args:
        train: what it was trained on. valid: what it was not, with energies and forces.

    Raises:
        TrainingError: validation data without energies or forces, or of which nothing can be learnt.
    """
    engine = Engine(model)
    u = seen(model, ((batch, outputs) for batch, outputs, _ in _evaluated(engine, train)))
    rows = [_errors(u, batch, outputs, labels) for batch, outputs, labels in _evaluated(engine, valid)]
    (qe, ne, ee), (qf, ff, ef) = ([torch.cat(x) for x in zip(*part, strict=True)] for part in zip(*rows, strict=True))
    if not len(ee) or not len(ef):
        raise TrainingError("the validation data has no energies or no forces: there is nothing to calibrate with")
    found = fitted(qe, ne, ee), fitted(qf, ff, ef, weight=3.0)
    if not all(torch.isfinite(x).all() for x in found):
        raise TrainingError(
            "the errors on the validation data are no measure: all but zero, or of too few structures; give more of "
            "them, such as the model was not trained on"
        )
    u = with_calibration(u, *found)
    return Calibration(u, _spread(u.energy, qe, ne, ee), _spread(u.force, qf, ff, ef))


def seen(model: DPA1, evaluated: Iterator[tuple[Batch, Outputs]]) -> Uncertainty:
    """What training data show of atoms, pairs and structures; without coefficients."""
    n, h = model.config.ntypes, model.dim_hidden
    gram = [torch.zeros(h, h, dtype=torch.float64) for _ in range(2)]
    counts = [0, 0]
    closest, types = torch.full((n * n,), torch.inf, dtype=torch.float64), torch.zeros(n, dtype=torch.int64)
    kept: list[Tensor] = []
    for batch, outputs in evaluated:
        assert isinstance(outputs, OutputsWithHidden)
        mean = batch.sum_structures(outputs.hidden) / sizes(batch).unsqueeze(-1)
        for k, x in enumerate((outputs.hidden[batch.active], mean)):
            gram[k] += x.t() @ x
            counts[k] += len(x)
        kept.append(outputs.hidden[batch.active].float())
        pair = batch.types[batch.center] * n + batch.types[batch.neighbor]
        closest.scatter_reduce_(0, pair, torch.linalg.vector_norm(batch.vector, dim=-1), "amin")
        types += torch.bincount(batch.types[batch.types >= 0], minlength=n)
    if not counts[0]:
        raise TrainingError("the training data holds no atoms: there is nothing to be sure of")
    atom, structure = (inverse_root(g / c) for g, c in zip(gram, counts, strict=True))
    far = max(float(((x.double() @ atom.t()).square().sum(-1) / h).max()) for x in kept)
    zero = torch.zeros(3, dtype=torch.float64)
    return Uncertainty(
        atom, structure, zero, zero, torch.tensor(far, dtype=torch.float64), closest.view(n, n), types.double()
    )


def _evaluated(engine: Engine, data: Dataset) -> Iterator[tuple[Batch, Outputs, Labels]]:
    for chosen in whole(data, BATCH_ATOMS):
        batch, labels = data.batch(chosen)
        yield batch, engine.evaluate_batch(batch, gradient=False, hidden=True), labels


Rows = tuple[Tensor, Tensor, Tensor]


def _errors(u: Uncertainty, batch: Batch, outputs: Outputs, labels: Labels) -> tuple[Rows, Rows]:
    """q, the other variable, and squared errors: of energies an atom, and of the components of forces."""
    s = scores(u, batch, outputs)
    n = sizes(batch)
    de = (batch.sum_structures(outputs.energies) - labels.energy) / n
    df = (outputs.forces - labels.force).square().mean(-1)
    has_e, has_f = torch.isfinite(de), torch.isfinite(df)
    size = outputs.forces.square().sum(-1) + FORCE_FLOOR
    return (s.structure[has_e], n[has_e], de[has_e].square()), (s.atom[has_f], size[has_f], df[has_f])


def _spread(c: Tensor, q: Tensor, other: Tensor, square: Tensor) -> float:
    return float((square / deviation(c, q, other).square()).mean().sqrt())


def calibrate_command(model: str, train: list[str], valid: list[str], output: Path, head: str | None) -> int:
    """What ``dpa1-fast calibrate`` does and prints. Returns the exit code."""
    if output.suffix != ".safetensors":
        raise TrainingError(f"{output}: only our own format keeps an uncertainty; let its name end in .safetensors")
    loaded = read_model(model, head).model
    found = calibrate(loaded, Dataset(loaded.config, train), Dataset(loaded.config, valid))
    loaded.uncertainty = found.uncertainty
    path = find(model)
    write_model(loaded, output, description(path) if path.suffix == ".safetensors" else "")
    print(
        f"wrote {output}: standardised errors on the validation data spread by {found.energy_spread:.2f} (energy) and "
        f"{found.force_spread:.2f} (forces)"
    )
    return 0
