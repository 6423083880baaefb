"""What the host must read of a batch before it can launch, read beside what the GPU still computes.

A read on the stream of the evaluations waits for all that was launched before it, and then the GPU waits for the host:
3 ms an evaluation on an H100, of 16 for 12,288 atoms. A stream of its own waits for the batch alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def on_side_stream(batch: Any, stream: torch.cuda.Stream | None) -> Iterator[Callable[..., None]]:
    """Work on ``stream`` as soon as the batch is there; where no one said when that is, on the current stream.

    Yields:
        keep: takes tensors made inside that are used after it.
    """
    if stream is None or batch.ready is None:
        yield lambda *tensors: None
        return
    current = torch.cuda.current_stream(stream.device)

    def keep(*tensors: Tensor) -> None:
        for x in tensors:
            x.record_stream(current)

    stream.wait_event(batch.ready)
    with torch.cuda.stream(stream):
        yield keep
    current.wait_stream(stream)
