"""Our own format: one safetensors file, weights by our names, the configuration as JSON in its metadata."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ..config import DPA1Config
from ..errors import ConfigError, ModelFileError
from ..model import DPA1

FORMAT = "dpa1-fast model"
VERSION = "1"
KIND = "dpa1-fast model (.safetensors)"


def read(path: Path) -> DPA1:
    """The model in a file that ``write`` made, parameters in float64.

    Raises:
        ModelFileError: damaged, not ours, or a tensor missing, of the wrong shape, or not finite.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelFileError(path, f"is a damaged safetensors file ({error})", "copy or download it again") from None
    if metadata.get("format") != FORMAT:
        raise ModelFileError(path, "is a safetensors file of something else", "give a model that dpa1-fast wrote")
    if metadata.get("version") != VERSION:
        raise ModelFileError(path, f"has format version {metadata.get('version')}", "update dpa1-fast")
    try:
        config = DPA1Config.from_dict(json.loads(metadata["config"]))
    except (ConfigError, ValueError, KeyError) as error:
        raise ModelFileError(path, f"has a bad configuration ({error})", "write it again") from None
    model = DPA1(config)
    state = {}
    for name, expected in model.state_dict().items():
        if name not in tensors:
            raise ModelFileError(path, f"lacks the tensor {name}", "write it again")
        tensor = tensors[name].to(torch.float64)
        if tensor.shape != expected.shape:
            told = f"the tensor {name} has shape {tuple(tensor.shape)}, its options say {tuple(expected.shape)}"
            raise ModelFileError(path, told, "write it again")
        if not torch.isfinite(tensor).all():
            raise ModelFileError(path, f"has non-finite weights (NaN or infinite) in {name}", "train or copy it again")
        state[name] = tensor
    model.load_state_dict(state, assign=True)
    return model


def write(model: DPA1, path: Path, description: str = "") -> None:
    """Writes a model; parameters in the precision that its configuration names, statistics in float64."""
    from safetensors.torch import save_file

    dtype = torch.float32 if model.config.precision == "float32" else torch.float64
    parameters = dict(model.named_parameters())
    tensors = {
        name: value.detach().cpu().to(dtype if name in parameters else torch.float64).contiguous()
        for name, value in model.state_dict().items()
    }
    metadata = {"format": FORMAT, "version": VERSION, "config": json.dumps(model.config.to_dict())}
    if description:
        metadata["description"] = description
    save_file(tensors, str(path), metadata)


def description(path: Path) -> str:
    """What the author wrote about the model, or an empty string."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return str((file.metadata() or {}).get("description", ""))
