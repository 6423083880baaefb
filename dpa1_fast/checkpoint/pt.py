"""DeePMD-kit's training checkpoint, ``.pt``: a state dict whose ``_extra_state`` holds the hyper-parameters."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from ..errors import ModelFileError
from .raw import RawModel

KIND = "DeePMD-kit training checkpoint (.pt)"


def read(path: Path, head: str | None) -> RawModel:
    """Reads a checkpoint without running code from it (``torch.load(weights_only=True)``).

    Args:
        head: the branch of a multi-task model, by name or alias.

    Raises:
        ModelFileError: damaged, not DeePMD-kit's, or several heads and none named.
    """
    data = _load(path)
    state = data.get("model", data) if isinstance(data, dict) else None
    extra = state.get("_extra_state") if isinstance(state, dict) else None
    params = extra.get("model_params") if isinstance(extra, dict) else None
    if not isinstance(params, dict) or state is None:
        raise ModelFileError(
            path,
            "is a torch file without DeePMD-kit's hyper-parameters (no model_params in _extra_state)",
            "give the checkpoint that `dp --pt train` wrote, or the frozen model",
        )
    branch = choose_head(path, params, head)
    if "model_dict" in params:
        params = params["model_dict"][branch]
    prefix = f"model.{branch}.atomic_model."
    tensors = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix) and isinstance(v, torch.Tensor)}
    return RawModel(path, KIND, params, tensors)


def choose_head(path: Path, params: dict[str, Any], head: str | None) -> str:
    """The branch to read: the only one, or the one that ``head`` names (by name or alias, in any case).

    Raises:
        ModelFileError: several heads and none named, or no head of that name; the message lists them.
    """
    branches = params.get("model_dict")
    if branches is None:
        if head not in (None, "Default"):
            raise ModelFileError(path, f"has one head only, no head {head!r}", "leave out head=")
        return "Default"
    listed = ", ".join(branches)
    if head is None:
        if len(branches) == 1:
            return str(next(iter(branches)))
        raise ModelFileError(path, f"is a multi-task model with heads {listed}", "choose one: head=NAME or --head NAME")
    known: dict[str, str] = {name: name for name in branches}
    for name, branch in branches.items():
        known.update(dict.fromkeys(branch.get("model_branch_alias") or [], name))
    folded: dict[str, str] = {name.lower(): branch for name, branch in reversed(known.items())}
    found = known.get(head, folded.get(head.lower()))
    if found is None:
        raise ModelFileError(path, f"has no head {head!r}", f"choose one of {listed}")
    return found


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ModelFileError(
            path,
            "holds Python objects that could run code when opened",
            "keep the state dict only: torch.save(torch.load(f)['model'], g) where you trust it",
        ) from None
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, AttributeError, IndexError) as error:
        raise ModelFileError(
            path, f"is damaged or cut short ({type(error).__name__})", "copy or download it again"
        ) from None
