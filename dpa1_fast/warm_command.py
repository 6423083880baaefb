"""``dpa1-fast warm``: compiles a model's Triton kernels before they are needed, for a card that is here or not."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from . import tuning
from .errors import BackendError
from .kernels import dispatch
from .kernels.triton import configuration_cache

NO_GPU = "no GPU was found: name the card that is meant by its architecture, as --architecture sm_90 for an H100"


def warm_command(
    path: str, head: str | None, precisions: Sequence[str], device: str, architecture: str | None, workers: int | None
) -> int:
    """Compiles for all neighbour counts that a model can have.

    Args:
        architecture: "sm_90" and the like, of a card that may be elsewhere; None for the one of ``device``.

    Returns:
        Exit code 0.

    Raises:
        DPA1Error: no GPU and no architecture, no model, an unknown precision, or kernels that do not compile.
    """
    from .checkpoint import read_model

    for precision in precisions:
        try:
            dispatch.check_precision(precision, dispatch.choose("triton", "cuda"))
        except ValueError as error:
            raise BackendError(str(error)) from None
    card, place = _card(device, architecture)
    model = read_model(path, head).model
    weights = model.weights()
    try:
        dispatch.load_triton(torch.device("cuda"))
        choose = dispatch.chooser(card, place, workers)
        from .kernels.triton.evaluator import TritonEvaluator

        tuned = configuration_cache.read(configuration_cache.path_for(card.name, model.config))
        for precision in precisions:
            before = choose.compiled
            run = TritonEvaluator(
                weights, precision, torch.device("cpu"), card.architecture, card.chunk_bytes, tuned=tuned
            )  # fmt: skip
            run.choose, buckets = choose, tuning.buckets(model.config)
            choose.ahead(run, buckets)
            for bucket in buckets:
                run.compile(bucket)
            made = choose.compiled - before
            print(f"{card.name}, {precision}: " + (f"{made} kernels compiled" if made else "nothing left to compile"))
    except ValueError as error:
        raise BackendError(str(error)) from None
    print(f"{choose.outcomes.folder}: where Triton keeps them; engines made from now on find them")
    return 0


def _card(device: str, architecture: str | None) -> tuple[dispatch.Card, torch.device | None]:
    if architecture is not None:
        if not dispatch.is_architecture(architecture):
            raise BackendError(f"{architecture!r} is no architecture: give one as sm_80, sm_90, sm_100 or gfx942")
        return dispatch.Card(architecture, architecture, dispatch.CHUNK_BYTES["cuda"]), None
    if not torch.cuda.is_available():
        raise BackendError(NO_GPU)
    place, card = tuning.gpu(device)
    return card, place
