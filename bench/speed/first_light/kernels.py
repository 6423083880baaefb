"""Every kernel by itself: what Triton's interpreter made of a launch, and what the card makes of the same.

``record`` stands where kernels stand while the evaluator runs on a CPU, with the launch configurations of a card, and
keeps each launch: its arguments, memory before and memory after. ``replay`` launches the same on a card and compares
what was written. A few atoms of water have as many neighbours as all of them, so the kernels are those of production.
Weights are not kept: a model on the card has them at the same places.
"""

from __future__ import annotations

import dataclasses
import io
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dpa1_fast.kernels.triton.evaluator import TritonEvaluator
from dpa1_fast.kernels.triton.stand_ins import kernels, standing_in

from . import BARS
from .lines import Log
from .place import MODELS, Place

ATOMS = 2
"""How many are evaluated."""
BASIS = tuple(f".{x}" for x in ("coordinates", "reduced", "series", "ranges"))
"""Where a model's first layer in coordinates stands. Its basis comes from singular vectors, of which small ones have
another sign, or are turned, on another machine: what goes over them is recorded, not made again there."""


def tensors_of(model: Any) -> dict[str, Tensor]:
    """All tensors of a model on a device, by where they hang."""
    return dict(_walk("", vars(model), set()))


def _walk(path: str, x: Any, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(x, Tensor):
        yield path, x
        return
    if id(x) in seen:
        return
    if isinstance(x, dict):
        parts = [(str(k), v) for k, v in x.items()]
    elif isinstance(x, list | tuple):
        parts = [(str(k), v) for k, v in enumerate(x)]
    elif dataclasses.is_dataclass(x) and not isinstance(x, type):
        parts = [(f.name, getattr(x, f.name)) for f in dataclasses.fields(x)]
    else:
        return
    seen.add(id(x))
    for name, value in parts:
        yield from _walk(f"{path}.{name}", value, seen)


class Recorder:
    """Stands where a kernel stands; runs it, and keeps what it did in ``into``."""

    def __init__(self, name: str, function: Any, weights: dict[int, str], into: list[dict[str, Any]]) -> None:
        self.name, self.function, self.weights, self.into = name, function, weights, into

    def __getitem__(self, grid: Any) -> Any:
        names = list(self.function.arg_names)

        def launch(*args: Any, **kwargs: Any) -> None:
            values = {**dict(zip(names, args, strict=False)), **kwargs}
            places: dict[tuple[Any, ...], int] = {}
            kept: list[dict[str, Any]] = []
            arguments = {k: self._argument(v, places, kept) for k, v in values.items()}
            self.function[grid](*args, **kwargs)
            for k, v in values.items():
                if isinstance(v, Tensor) and isinstance(arguments[k], dict) and "memory" in arguments[k]:
                    row = kept[arguments[k]["memory"]]
                    if not _same(row["before"], v):
                        row["after"] = v.clone()
            self.into.append({"kernel": self.name, "grid": list(grid), "arguments": arguments, "memory": kept})

        return launch

    def _argument(self, x: Any, places: dict[tuple[Any, ...], int], kept: list[dict[str, Any]]) -> Any:
        if not isinstance(x, Tensor):
            return x
        path = self.weights.get(x.untyped_storage().data_ptr())
        if path is not None:
            return {"weights": path, "offset": x.storage_offset(), "shape": list(x.shape), "stride": list(x.stride())}
        place = (x.data_ptr(), tuple(x.shape), x.dtype)
        if place not in places:
            places[place] = len(kept)
            kept.append({"before": x.clone()})
        return {"memory": places[place]}


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(torch.nan_to_num(a.double(), 1e300), torch.nan_to_num(b.double(), 1e300))


def evaluator(model: Any, precision: str, architecture: str | None, device: torch.device) -> Any:
    """The launches of a card with this architecture, on whatever device."""
    return TritonEvaluator(model.weights(), precision, device, architecture, chunk_bytes=1 << 30)


def record(model: Any, batch: Any, precision: str, architecture: str | None) -> list[dict[str, Any]]:
    """The launches of an evaluation of a few of a batch's atoms, in the interpreter; fresh memory is NaN."""
    active = torch.zeros_like(batch.active)
    active[:ATOMS] = True
    run = evaluator(model, precision, architecture, torch.device("cpu"))
    real = run.model.products
    if real == "bfloat16":
        run.model.products = "rounded_bfloat16"  # numpy has no such products
    weights = {
        x.untyped_storage().data_ptr(): path for path, x in tensors_of(run.model).items() if not path.startswith(BASIS)
    }
    out: list[dict[str, Any]] = []
    filled = torch.utils.deterministic.fill_uninitialized_memory, torch.are_deterministic_algorithms_enabled()
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)
    try:
        with standing_in(lambda name, function: Recorder(name, function, weights, out)):
            run(dataclasses.replace(batch, active=active))
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = filled[0]
        torch.use_deterministic_algorithms(filled[1])
    for row in out:
        if "PREC" in row["arguments"]:
            row["arguments"]["PREC"] = real
    return out


def write(launches: list[dict[str, Any]], path: Path) -> None:
    """Keeps what was recorded."""
    memory = io.BytesIO()
    torch.save(launches, memory)
    path.write_bytes(lzma.compress(memory.getvalue()))


def read(path: Path) -> list[dict[str, Any]]:
    """What was recorded; nothing in the file is executed."""
    found: list[dict[str, Any]] = torch.load(io.BytesIO(lzma.decompress(path.read_bytes())), weights_only=True)
    return found


def again(launch: dict[str, Any], weights: dict[str, Tensor], device: torch.device, precision: str) -> dict[str, Any]:
    """Launches once more, and says how far what was written is from what the interpreter wrote.

    Returns:
        worst: RMS difference over the RMS, of the argument that is off the most. elsewhere: elements that were written
        and should not have been, or that should have been and were not.
    """
    memory = [row["before"].to(device) for row in launch["memory"]]
    values = {}
    for name, x in launch["arguments"].items():
        if isinstance(x, dict) and "weights" in x:
            base = weights[x["weights"]]
            values[name] = torch.empty(0, dtype=base.dtype, device=device).set_(
                base.untyped_storage(), x["offset"], x["shape"], x["stride"]
            )
        else:
            values[name] = memory[x["memory"]] if isinstance(x, dict) else x
    kernels()[launch["kernel"]][tuple(launch["grid"])](**values)
    worst, where, elsewhere = 0.0, "", 0
    names = {x["memory"]: k for k, x in launch["arguments"].items() if isinstance(x, dict) and "memory" in x}
    for k, row in enumerate(launch["memory"]):
        now, before, right = (x.cpu().double() for x in (memory[k], row["before"], row.get("after", row["before"])))
        written = ~((right == before) | (right.isnan() & before.isnan()))
        touched = ~((now == before) | (now.isnan() & before.isnan()))
        # What should be written may by chance be what stood there: only what no number was written to counts.
        elsewhere += int((touched & ~written).sum()) + int((now.isnan() & written).sum())
        if bool(written.any()):
            off = (now - right)[written].square().mean().sqrt() / right[written].square().mean().sqrt().clamp_min(
                1e-300
            )
            if not float(off) <= worst:
                worst, where = float(off), names[k]
    return {"kernel": launch["kernel"], "worst": worst, "argument": where, "elsewhere": elsewhere}


def replay(place: Place, log: Log, precision: str) -> None:
    """All recorded launches of a precision on this device."""
    device = torch.device(place.device)
    for name in MODELS:
        file = place.data / f"kernels_{name}_{precision}.pt.xz"
        if not file.exists():
            log.say(f"kernels-{precision}", model=name, said="the kit has no recording of this precision")
            continue
        recorded = read(file)
        weights = tensors_of(evaluator(place.model(name), precision, recorded[0]["architecture"], device).model)
        for k, launch in enumerate(recorded):
            if not place.on_card and launch["arguments"].get("PREC") == "bfloat16":
                launch["arguments"]["PREC"] = "rounded_bfloat16"
            found = again(launch, weights, device, precision)
            limit = BARS[precision]
            right = bool(found["worst"] <= limit) and found["elsewhere"] == 0
            log.say(
                f"kernels-{precision}", model=name, precision=precision, launch=k, limit=limit, right=right, **found
            )
