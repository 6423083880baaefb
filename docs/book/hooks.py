"""What MkDocs calls while it builds the book: pages from elsewhere, files that pages link to, formulas, figures."""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from commands import commands_page
from formulas import to_mathml
from mkdocs.structure.files import File, Files, InclusionLevel
from notebooks import notebook_page
from performance import fill

ROOT = Path(__file__).parents[2]

ELSEWHERE = {
    "index.md": "README.md",
    "kernels.md": "kernels/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
"""Pages of the book → files of the repository that they show."""

LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#]+)(#[^)\s]*)?\)")


def on_config(config: Any) -> Any:
    """Pages that ``mkdocs.yml`` does not name stand at the end of the contents, so that none is lost."""
    named = set(re.findall(r"[\w/.-]+\.md", json.dumps(config.nav)))
    pages = sorted(p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md"))
    if more := [page for page in pages if page not in named]:
        config.nav.append({"More": more})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds pages that stand elsewhere in the repository, the commands' page, notebooks, and files that are linked."""
    homes: dict[str, str] = {}
    for page, source in ELSEWHERE.items():
        homes[page] = source
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    files.append(File.generated(config, "commands.md", content=commands_page()))
    for path in sorted((ROOT / "examples" / "notebooks").glob("*.ipynb")):
        page = f"notebooks/{path.stem}.md"
        homes[page] = f"examples/notebooks/{path.name}"
        files.append(File.generated(config, page, content=notebook_page(path)))
    for file in list(files.documentation_pages()):
        home = homes.get(file.src_uri, f"docs/{file.src_uri}")
        file.content_string = linked(file.content_string, home, file.src_uri, files, config)
    return files


def linked(text: str, home: str, page: str, files: Files, config: Any) -> str:
    """The page's text with links as the book has them: to pages of it, or to copies of the repository's files."""
    pages = {source: name for name, source in ELSEWHERE.items()}

    def of(match: re.Match[str]) -> str:
        opening, target, anchor = match[1], match[2], match[3] or ""
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(home), target))
        if path in pages:
            there = pages[path]
        elif path.startswith("examples/notebooks/") and path.endswith(".ipynb"):
            there = f"notebooks/{Path(path).stem}.md"
        elif path.startswith("docs/"):
            there = path.removeprefix("docs/")
        elif (ROOT / path).is_file():
            there = f"files/{path}" if not path.endswith(".md") else f"files/{path}.txt"
            if files.get_file_from_path(there) is None:
                copy = File.generated(config, there, content=(ROOT / path).read_bytes())
                copy.inclusion = InclusionLevel.NOT_IN_NAV
                files.append(copy)
        elif (ROOT / path).is_dir():
            return re.sub(r"^!?\[|\]\($", "", opening)  # a folder: its name, without a link
        else:
            return match[0]  # MkDocs says that it leads nowhere
        return f"{opening}{posixpath.relpath(there, posixpath.dirname(page) or '.')}{anchor})"

    parts = re.split(r"(```.*?```)", text, flags=re.DOTALL)
    return "".join(part if part.startswith("```") else LINK.sub(of, part) for part in parts)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Puts tables of saved results where ``<!-- results: NAME -->`` stands."""
    return fill(markdown)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Formulas become MathML, which browsers show by themselves."""
    return to_mathml(html)
