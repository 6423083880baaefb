"""The one place where training evaluates a model."""

from __future__ import annotations

from ..errors import BackendError
from ..model import DPA1, Prediction
from ..structures.batch import Batch

BACKENDS = ("reference",)


def predict(model: DPA1, batch: Batch, backend: str = "reference") -> Prediction:
    """Energies, forces and virials of a batch, differentiable in the parameters.

    Args:
        backend: ``reference`` differentiates the formulas twice.

    Raises:
        BackendError: there is no such backend.
    """
    if backend == "reference":
        prediction: Prediction = model(batch)
        return prediction
    raise BackendError(f"backend {backend!r} does not train; known are {', '.join(BACKENDS)}")
