"""Notebooks as pages: words as they are, code as blocks, and what it printed or drew when it was last run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def _text(x: Any) -> str:
    return "".join(x) if isinstance(x, list) else str(x)


def notebook_page(path: Path) -> str:
    """Markdown of a notebook."""
    out = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = _text(cell["source"]).rstrip()
        if cell["cell_type"] == "markdown":
            out.append(source)
            continue
        out.append(f"```python\n{source}\n```")
        for shown in cell.get("outputs", []):
            data = shown.get("data", {})
            if "image/png" in data:
                png = _text(data["image/png"]).strip()
                out.append(f'<p><img alt="drawn by the code above" src="data:image/png;base64,{png}"></p>')
            elif said := _text(shown.get("text", data.get("text/plain", ""))).rstrip():
                out.append(f"```text\n{said}\n```")
    out.append(f"\nThe notebook itself: `examples/notebooks/{path.name}`; the tests run it.")
    return "\n\n".join(out) + "\n"
