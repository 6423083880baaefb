"""The book and the README: code works as shown, figures are those of saved results, every error has an entry."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from commands import run_command

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "kernels/README.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)
NAMES = [p.relative_to(ROOT).as_posix() for p in PAGES]
FENCE = re.compile(r"((?:<!-- [^\n]*-->\n)*)^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
REASON = re.compile(r"<!-- not run: (.{10,}) -->")
NEEDS = re.compile(r"<!-- needs: ([\w, ]+) -->")


def helper(name: str) -> ModuleType:
    """A module of docs/book, which no package holds."""
    folder = str(ROOT / "docs" / "book")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(f"book_{name}", f"{folder}/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """(language, code, comments before it) of a page's fenced blocks."""
    return [(m[2], m[3], m[1]) for m in FENCE.finditer(page.read_text(encoding="utf-8"))]


def ready(comments: str) -> bool:
    """Whether a block is to be run here: not marked, and what it needs is installed."""
    needed = NEEDS.search(comments)
    there = needed is None or all(importlib.util.find_spec(x.strip()) for x in needed[1].split(","))
    return there and not REASON.search(comments)


@pytest.mark.parametrize("page", PAGES[1:], ids=NAMES[1:])  # the README's: test_readme.py
def test_code_blocks_run_one_after_another(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    for language, code, comments in blocks(page):
        if not ready(comments):
            continue
        if language == "python":
            exec(compile(code, page.name, "exec"), space)
        elif language == "bash":
            for line in code.replace("\\\n", " ").splitlines():
                _run(line, tmp_path)
        elif language == "toml":
            _read_as_training_input(code, tmp_path)


def _run(line: str, folder: Path) -> None:
    words = shlex.split(line, comments=True)
    if not words:
        return
    assert words[0] == "dpa1-fast", f"{line}: say <!-- not run: why --> above blocks that are not our commands"
    shown = [
        str(p.relative_to(folder)) for w in words[1:] for p in (sorted(folder.glob(w)) if "*" in w else [folder / w])
    ]
    done = run_command(*shown, cwd=folder)
    assert done.returncode == 0, f"{line}: {done.stderr}"


def _read_as_training_input(code: str, folder: Path) -> None:
    from dpa1_fast.train.input_toml import read_toml

    path = folder / "input.toml"
    path.write_text(code, encoding="utf-8")
    read_toml(path)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    silent = [
        code.splitlines()[0]
        for language, code, comments in blocks(page)
        if language not in ("python", "bash", "toml", "") and not REASON.search(comments)
    ]
    assert not silent, f"say <!-- not run: why --> above these blocks: {silent}"


def test_commands_that_pages_name_have_the_options_that_pages_give_them() -> None:
    known = {
        name.removeprefix("dpa1-fast "): {w for row in told["rows"] for w in re.findall(r"-{1,2}[\w-]+", row[0])}
        for name, told in helper("commands").commands().items()
    }
    wrong = []
    for page in PAGES:
        for line in re.findall(r"dpa1-fast ([a-z][^`\n|]*)", page.read_text(encoding="utf-8")):
            words = line.split("#")[0].split()
            name = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
            if name not in known:
                continue
            used = [w for w in words if re.fullmatch(r"--?[a-z][\w-]*", w)]
            wrong += [f"{page.name}: {line}: {w}" for w in used if w not in known[name] | {"--help", "-h"}]
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target, anchor in re.findall(r"\]\((?!\w+:)([^)#\s]*)(#[^)\s]*)?\)", text):
        there = (page.parent / target).resolve() if target else page
        assert there.exists(), f"{page.name}: {target}"
        if anchor and there.suffix == ".md":
            assert anchor[1:] in _anchors(there), f"{page.name}: {target}{anchor}"


def _anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", h.lower()).strip()) for h in heads}


def test_tables_and_pictures_are_those_of_saved_results() -> None:
    performance, pictures = helper("performance"), helper("pictures")
    for page in performance.places():
        text = page.read_text(encoding="utf-8")
        assert performance.fill(text) == text, f"{page.name}: run python docs/book/performance.py"
    for name, draw in pictures.ALL.items():
        held = (ROOT / "docs" / "pictures" / name).read_text(encoding="utf-8")
        assert held == draw(), f"{name}: run python docs/book/pictures.py"


def test_a_size_whose_forces_are_wrong_shows_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    performance = helper("performance")
    found = performance.card()
    for row in found["sizes-tf32"]:
        row["right"] = False
    monkeypatch.setattr(performance, "card", lambda: found)
    assert all(line.split("|")[3].strip() == "–" for line in performance.gpu().splitlines()[2:6])


def test_every_error_text_of_the_package_has_an_entry() -> None:
    messages = helper("messages")
    entries = messages.entries((ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"))
    assert all(len(said) > 5 for said in entries.values())
    raised = messages.messages()
    assert len(raised) > 400
    missing = [f"{m.where}: {m.text}" for m in raised if not any(messages.matches(p, m.text) for p in entries)]
    assert not missing, "docs/troubleshooting.md has no entry for these:\n" + "\n".join(missing)
    stale = [p for p in entries if not any(messages.matches(p, m.text) for m in raised)]
    assert not stale, "docs/troubleshooting.md has entries that nothing says any more:\n" + "\n".join(stale)


def test_error_texts_are_found_however_they_are_put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = helper("messages")
    monkeypatch.setattr(messages, "ROOT", tmp_path)
    path = tmp_path / "module.py"
    path.write_text(
        'KNOWN = "give a file"\n'
        "def f(x):\n"
        '    told = f"is {x} long" if x else "is short"\n'
        '    raise ModelFileError(x, told, "remedy")\n'
        "def g(x):\n"
        '    raise ValueError(f"no {x}; {KNOWN}")\n'
    )
    assert {m.text for m in messages.of_file(path)} == {"is … long", "is short", "no …; give a file"}


def test_the_readme_is_short_and_shows_one_picture() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 150
    assert len(re.findall(r"!\[", text)) == 1
    example = next(code for language, code, _ in blocks(ROOT / "README.md") if language == "python")
    assert len([x for x in example.splitlines() if x.strip()]) <= 8


def test_notebooks_that_the_book_shows_are_whole() -> None:
    for path in sorted((ROOT / "examples" / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert any(c["cell_type"] == "markdown" for c in cells), path.name
        assert not [o for c in cells for o in c.get("outputs", []) if o["output_type"] == "error"], path.name
