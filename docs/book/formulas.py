"""Formulas as MathML: browsers show it without any script, and without a network."""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert

INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
BLOCK = re.compile(r'<div class="arithmatex">\\\[(.*?)\\\]</div>', re.DOTALL)


def to_mathml(page: str) -> str:
    """The page with its formulas, which arithmatex marked, as MathML."""
    page = INLINE.sub(lambda m: convert(html.unescape(m[1]).strip()), page)
    return BLOCK.sub(
        lambda m: f'<div class="formula">{convert(html.unescape(m[1]).strip(), display="block")}</div>', page
    )
