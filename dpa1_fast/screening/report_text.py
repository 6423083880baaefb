"""Numbers, times and formulas as a report writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from markupsafe import Markup, escape

QUANTITIES = {
    "energy_per_atom": ("energy per atom", "eV/atom"),
    "energy": ("energy", "eV"),
    "max_force": ("largest force", "eV/Å"),
    "pressure": ("pressure", "eV/Å³"),
    "volume": ("volume", "Å³"),
    "max_devi_f": ("deviation of forces between models", "eV/Å"),
    "e_above_hull": ("energy above hull", "eV/atom"),
    "steps": ("steps of a relaxation", ""),
}
"""What people call a column, and its unit."""


def axis(name: str) -> str:
    """A column and its unit."""
    words, unit = QUANTITIES[name]
    return f"{words} ({unit})" if unit else words


def count(n: int, one: str = "", many: str = "") -> str:
    """``1,234 structures``."""
    word = one if n == 1 else many or (f"{one}s" if one else "")
    return f"{n:,} {word}".strip()


def number(x: float | None, digits: int = 4) -> str:
    """A number with so many decimals; a power of ten where it is very large; a dash where there is none."""
    if x is None or x != x:
        return "–"
    if abs(x) < 10.0**-digits / 2:
        x = 0.0
    if abs(x) >= 1e7:
        mantissa, exponent = f"{x:.2e}".split("e")
        power = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return f"{mantissa.replace('-', '−')} × 10{power}"
    return f"{x:,.{digits}f}".replace("-", "−")


def quantity(x: float | None, name: str, digits: int = 4) -> str:
    """A number of a column with its unit."""
    return f"{number(x, digits)} {QUANTITIES[name][1]}".strip()


def share(part: int, whole: int) -> str:
    """A percentage that says 0 % and 100 % only where that is so."""
    percent = 100 * part / max(whole, 1)
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f} %".replace(".0 %", " %")


def rate(x: float) -> str:
    """Something per second, three digits of it."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def duration(seconds: float) -> str:
    """A time, its two largest units."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{count(days, 'day')} {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s"


def times(n: int) -> str:
    """``once``, ``twice``, ``3 times``."""
    return {1: "once", 2: "twice"}.get(n, f"{n:,} times")


def listed(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def formula(text: str | None) -> Markup:
    """A chemical formula with its numbers set low."""
    return Markup("").join(
        Markup("<sub>{}</sub>").format(part) if part.isdigit() else escape(part)
        for part in re.split("([0-9]+)", text or "–")
    )


def place(row: Mapping[str, Any]) -> Markup:
    """Where a structure is from, short, with the whole path for who points at it; lines may end at its dots."""
    source, frame = str(row["source"]), int(row["frame"])
    short = (PurePath(source).name or source) + (f":{frame}" if frame >= 0 else "")
    broken = Markup("<wbr>").join(re.split(r"(?=[.:])", short))
    return Markup('<span title="{}">{}</span>').format(source, broken)


def system(text: str) -> str:
    """``Al–Cu`` of ``AlCu``."""
    parts = re.findall("[A-Z][a-z]?", text)
    return "–".join(parts) if "".join(parts) == text else text
