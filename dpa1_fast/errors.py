"""What can go wrong, each with a message that names the thing and the remedy."""

from __future__ import annotations

LONGEST = 500
"""Characters of a file's own words that a message may repeat."""


class DPA1Error(Exception):
    """Base class of every error that this package raises on purpose."""


class ModelFileError(DPA1Error, ValueError):
    """A model file that cannot be served. The message is one line: the file, what it is, what to do.

    Args:
        path: the file.
        what: what the file is or lacks.
        remedy: what the user can do about it.
    """

    def __init__(self, path: object, what: str, remedy: str) -> None:
        what = "".join(c if c.isprintable() else " " for c in what)  # words of strangers are in it
        what = what if len(what) <= LONGEST else f"{what[:LONGEST]}…"
        self.path, self.what, self.remedy = str(path), what, remedy
        super().__init__(" ".join(f"{path}: {what}; {remedy}".split()))


class ConfigError(DPA1Error, ValueError):
    """Hyper-parameters that contradict each other or that DPA-1 does not have."""


class StructureError(DPA1Error, ValueError):
    """A structure that cannot be evaluated.

    Args:
        name: which structure (its number in the batch, or its source).
        reason: what is wrong with it and what to do.
    """

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, reason
        super().__init__(f"{name}: {reason}")


class BackendError(DPA1Error, RuntimeError):
    """An explicitly requested backend, device or precision is not available."""


class UncertaintyError(DPA1Error, ValueError):
    """The uncertainty of a model that has none."""


class DPA1Warning(UserWarning):
    """Something that the user should know once, such as neighbours beyond ``sel``."""
