"""DeePMD-kit's training checkpoint, ``.pt``: a state dict whose ``_extra_state`` holds the hyper-parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ModelFileError
from . import torch_file
from .inert import TensorRecord
from .parsing import Section, listed, many, text
from .raw import RawModel

KIND = "DeePMD-kit training checkpoint (.pt)"


@contextmanager
def opened(path: Path, kind: str, head: str | None) -> Iterator[RawModel]:
    """Opens a checkpoint without running code from it.

    Args:
        kind: "pt", or "legacy" for files of torch before 1.6.
        head: the branch of a multi-task model, by name or alias.

    Raises:
        ModelFileError: damaged, not DeePMD-kit's, or several heads and none named.
    """
    with (torch_file.opened_legacy if kind == "legacy" else torch_file.opened_archive)(path) as file:
        data = file.content
        state = data.get("model", data) if isinstance(data, dict) else None
        extra = state.get("_extra_state") if isinstance(state, dict) else None
        params = extra.get("model_params") if isinstance(extra, dict) else None
        if not isinstance(params, dict) or not isinstance(state, dict):
            raise ModelFileError(
                path,
                "is a torch file without DeePMD-kit's hyper-parameters (no model_params in _extra_state)",
                "give the checkpoint that `dp --pt train` wrote, or the frozen model",
            )
        section = Section(path, "model_params", params)
        branch = choose_head(section, head)
        if "model_dict" in section:
            params = section.section("model_dict").section(branch).values
        prefix = f"model.{branch}.atomic_model."
        tensors = {
            key[len(prefix) :]: file.stored(value)
            for key, value in state.items()
            if isinstance(key, str) and key.startswith(prefix) and isinstance(value, TensorRecord)
        }
        yield RawModel(path, KIND, params, tensors, file.nbytes)


def choose_head(params: Section, head: str | None) -> str:
    """The branch to read: the only one, or the one that ``head`` names (by name or alias, in any case).

    Raises:
        ModelFileError: several heads and none named, or no head of that name; the message lists them.
    """
    path, branches = params.path, params.maybe("model_dict")
    if branches is None:
        if head not in (None, "Default"):
            raise ModelFileError(path, f"has one head only, no head {head!r}", "leave out head=")
        return "Default"
    names = [name for name in branches.values if isinstance(name, str)]
    if head is None:
        if len(names) == 1:
            return names[0]
        told = f"is a multi-task model with heads {listed(names)}"
        raise ModelFileError(path, told, "choose one: head=NAME or --head NAME")
    known: dict[str, str] = {name: name for name in names}
    for name in names:
        known.update(dict.fromkeys(branches.section(name).take("model_branch_alias", many(text), ()), name))
    folded: dict[str, str] = {name.lower(): branch for name, branch in reversed(known.items())}
    found = known.get(head, folded.get(head.lower()))
    if found is None:
        raise ModelFileError(path, f"has no head {head!r}", f"choose one of {listed(names)}")
    return found
