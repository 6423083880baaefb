"""Our own format: one safetensors file, weights by our names, the configuration as JSON in its metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ..config import DPA1Config
from ..errors import ConfigError, ModelFileError
from ..model import DPA1
from ..uncertainty import PREFIX, Uncertainty
from .build import build, wrong_shape
from .parsing import parsing, shown
from .raw import Stored

FORMAT = "dpa1-fast model"
VERSION = "1"
KIND = "dpa1-fast model (.safetensors)"
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def read(path: Path) -> DPA1:
    """The model in a file that ``write`` made, parameters in float64.

    Raises:
        ModelFileError: damaged, not ours, or a tensor missing, of the wrong shape, or not finite.
    """
    from safetensors import safe_open

    with parsing(path, "a safetensors file"):
        file: Any = safe_open(path, framework="pt")
    with file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise ModelFileError(path, "is a safetensors file of something else", "give a model that dpa1-fast wrote")
        if metadata.get("version") != VERSION:
            told = f"has format version {shown(metadata.get('version'))}"
            raise ModelFileError(path, told, "update dpa1-fast")
        config = _config(path, metadata.get("config", ""))
        held = {name: _stored(path, file, name) for name in file.keys()}  # noqa: SIM118 (not a dict)

        def find(name: str) -> tuple[str, Stored]:
            if name not in held:
                raise ModelFileError(path, f"lacks the tensor {name}", "write it again")
            return name, held[name]

        def fit(name: str, tensor: torch.Tensor) -> torch.Tensor:
            return tensor

        if "davg" in held and "dstd" in held:
            for name in ("davg", "dstd"):
                if held[name].shape != (config.ntypes, 4):
                    raise wrong_shape(path, name, held[name].shape, (config.ntypes, 4))
        model = build(path, config, held.values(), path.stat().st_size, find, fit)
        model.uncertainty = _uncertainty(path, model, held)
        return model


def _uncertainty(path: Path, model: DPA1, held: dict[str, Stored]) -> Uncertainty | None:
    wanted = Uncertainty.shapes(model.config.ntypes, model.dim_hidden)
    if not any(name in held for name in wanted):
        return None
    for name, shape in wanted.items():
        if name not in held:
            raise ModelFileError(path, f"lacks the tensor {name}", "calibrate it again")
        if held[name].shape != shape:
            raise wrong_shape(path, name, held[name].shape, shape)
    tensors = {name: held[name].read().double() for name in wanted}
    for name, tensor in tensors.items():
        if torch.isnan(tensor).any() or (name != PREFIX + "closest" and torch.isinf(tensor).any()):
            raise ModelFileError(path, f"has numbers that are not finite in {name}", "calibrate it again")
    return Uncertainty.of(tensors)


def _config(path: Path, text: str) -> DPA1Config:
    with parsing(path, "the JSON of its configuration"):
        data = json.loads(text)
    try:
        return DPA1Config.from_dict(data)
    except ConfigError as error:
        raise ModelFileError(path, f"has a bad configuration ({error})", "write it again") from None


def _stored(path: Path, file: Any, name: str) -> Stored:
    def read() -> torch.Tensor:
        with parsing(path, f"a safetensors file, at {shown(name)}"):
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor

    with parsing(path, f"a safetensors file, at {shown(name)}"):
        part = file.get_slice(name)
        return Stored(tuple(part.get_shape()), DTYPES.get(part.get_dtype(), part.get_dtype()), read)


def encode(model: DPA1, description: str = "") -> bytes:
    """A file's bytes; parameters in the precision that the configuration names, statistics in float64."""
    from safetensors.torch import save

    dtype = torch.float32 if model.config.precision == "float32" else torch.float64
    parameters = dict(model.named_parameters())
    tensors = {
        name: value.detach().cpu().to(dtype if name in parameters else torch.float64).contiguous()
        for name, value in model.state_dict().items()
    }
    if model.uncertainty is not None:
        roots = (PREFIX + "atom", PREFIX + "structure")  # large, and known to a few digits at best
        tensors |= {
            name: (value.float() if name in roots else value).contiguous()
            for name, value in model.uncertainty.tensors().items()
        }
    metadata = {"format": FORMAT, "version": VERSION, "config": json.dumps(model.config.to_dict())}
    if description:
        metadata["description"] = description
    return _in_order(save(tensors, metadata))


def _in_order(encoded: bytes) -> bytes:
    """The same file with the keys of its header in order, which the library writes in another one each time."""
    length = int.from_bytes(encoded[:8], "little")
    header = json.loads(encoded[8 : 8 + length])
    header = {key: dict(sorted(value.items())) for key, value in sorted(header.items())}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + encoded[8 + length :]


def description(path: Path) -> str:
    """What the author wrote about the model, or an empty string."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return str((file.metadata() or {}).get("description", ""))
