"""A model as plain text and bytes, so that whatever holds one can be copied and pickled.

Compiled models, kernels and locks can't be copied; they are made again of the model that they were made of. A pickle
holds the configuration as JSON, the weights as a safetensors file, and names one function of ours: whoever does not
trust pickles can allow that one alone.
"""

from __future__ import annotations

import json

import torch

from .config import DPA1Config
from .model import DPA1
from .uncertainty import PREFIX, Uncertainty


def packed(model: DPA1) -> tuple[str, bytes]:
    """The configuration as JSON and all tensors in safetensors format, bit for bit."""
    from safetensors.torch import save

    more = {} if model.uncertainty is None else model.uncertainty.tensors()
    tensors = {name: value.detach().cpu().contiguous() for name, value in (model.state_dict() | more).items()}
    return json.dumps(model.config.to_dict()), save(tensors)


def unpacked(config: str, tensors: bytes) -> DPA1:
    """The model that ``packed`` packed, on the CPU.

    Raises:
        ValueError: these are not the tensors of this configuration.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        with torch.device("meta"):  # no random numbers are drawn for what is on its way
            model = DPA1(DPA1Config.from_dict(json.loads(config)))
        held = load(tensors)
        model.uncertainty = Uncertainty.of(held)
        own = {name: value for name, value in held.items() if not name.startswith(PREFIX)}
        model.load_state_dict(own, assign=True)
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise ValueError(f"this is not a dpa1-fast model that was pickled: {error}") from None
    return model
