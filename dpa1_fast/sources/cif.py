"""CIF: blocks by ASE, and what it does not look at: occupancies as written, alternatives, missing hydrogen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ase.io.cif import parse_cif

from .base import Item, Told
from .reading import Damaged, reason
from .streams import opened

UNSAID = ("", ".", "?")


def read_cif_file(path: Path, mark: Any) -> Iterator[Item]:
    """The structures of a file, one a block that has sites; a mark is [structure]. ASE holds the text as a whole.

    Raises:
        Exception: whatever ASE raises for what is no CIF.
    """
    with opened(path, bounded=True) as stream:
        blocks = [block for block in parse_cif(stream.file) if block.has_structure()]
    done = 0 if mark is None else int(mark[0])
    for frame, block in enumerate(blocks[done:], start=done):
        atoms, told, error = None, None, None
        try:
            told = _told(block)
            atoms = block.get_atoms()
            if block.name:
                atoms.info.setdefault("id", block.name)
        except Exception as fault:  # ASE's reader raises anything; the other blocks are none the worse
            error = (
                reason(fault) if isinstance(fault, Damaged) else f"block {block.name} cannot be read: {reason(fault)}"
            )
        yield Item(str(path), frame, atoms, error, [frame + 1], (frame + 1) / len(blocks), told=told)


def _told(block: Any) -> Told:
    labels = _column(block, "label") or _column(block, "type_symbol")
    groups = [g for g in _column(block, "disorder_group") if g not in UNSAID]
    if len(set(groups)) > 1:
        raise Damaged(f"disorder: its sites are alternatives (disorder groups {', '.join(sorted(set(groups)))})")
    attached = [k for k, count in enumerate(_column(block, "attached_hydrogens")) if count not in (*UNSAID, "0")]
    if attached:
        raise Damaged(f"site {labels[attached[0]]} has hydrogen atoms attached to it, which have no positions")
    dummies = [k for k, flag in enumerate(_column(block, "calc_flag")) if flag.lower() in ("dum", "dummy")]
    if dummies:
        raise Damaged(f"site {labels[dummies[0]]} is a dummy")
    symbols = block.get_symbols()
    shares = _column(block, "occupancy")
    return Told([(f"site {labels[k]}", [(symbols[k], share)]) for k, share in enumerate(shares)], no_virtual=True)


def _column(block: Any, name: str) -> list[str]:
    """A column of the sites as text; empty where there is none."""
    value = block.get(f"_atom_site_{name}")
    if value is None:
        return []
    return [str(x).strip() for x in (value if isinstance(value, list) else [value])]
