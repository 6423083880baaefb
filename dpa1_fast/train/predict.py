"""The one place where training evaluates a model."""

from __future__ import annotations

from ..errors import BackendError
from ..model import DPA1, Prediction
from ..structures.batch import Batch
from . import compiled

BACKENDS = ("auto", "compiled", "reference")


def predict(model: DPA1, batch: Batch, backend: str = "auto") -> Prediction:
    """Energies, forces and virials of a batch, differentiable in the parameters.

    Args:
        backend: ``compiled`` takes the passes of ``CompiledGradients``, which are on the CPU; ``reference``
            differentiates the formulas twice; ``auto`` takes the first of them that serves.

    Raises:
        BackendError: there is no such backend, or it cannot serve here.
    """
    if backend not in BACKENDS:
        raise BackendError(f"backend {backend!r} does not train; known are {', '.join(BACKENDS)}")
    if backend == "auto":
        backend = "compiled" if compiled.available(model) else "reference"
    if backend == "compiled":
        if not compiled.available(model):
            raise BackendError("backend 'compiled' needs the compiled engine, a model on the CPU, float32 or float64")
        return compiled.CompiledGradients(model)(batch)
    prediction: Prediction = model(batch)
    return prediction
