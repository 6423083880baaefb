"""The report: one page that needs nothing but a browser, says what the summary says, and takes no harm from it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from report_pages import IDENTITY, Page, broken, made, structures, summary_of
from screening import MODEL, input_file

from dpa1_fast import screen as screen_here
from dpa1_fast.screening import blocks, report_numbers
from dpa1_fast.screening.report_pace import pace
from dpa1_fast.screening.report_text import duration, number, share
from dpa1_fast.screening.sinks import summary

# --- what is on the page --------------------------------------------------------------------------------------------


def test_the_page_says_what_the_summary_says(tmp_path: Path) -> None:
    table = [*structures(1234), *(broken(1234 + k, f"atoms {k} and 7 overlap") for k in range(6)), broken(1240, "NaN")]
    page = made(tmp_path, table, told=[{"time": 1010.0, "began": 1000.0, "structures": 1241, "atoms": 4936}])
    for words in ("7 of 1,241 structures failed (0.6 %)", "1,234", "4,936", "set/first.extxyz", "set/second.extxyz",
                  "some/model.pt (SHA-256 0123456789ab…)", "float32", "backend cpu", "extxyz", "124"):  # fmt: skip
        assert words in page.text[""]
    best = min(table[:1234], key=lambda r: r["energy_per_atom"])
    assert number(best["energy_per_atom"]) in page.text["best"]
    assert f"first.extxyz:{best['frame']}" in page.text["best"]
    assert "Lowest 10" in page.text["best"]
    assert all(x in page.text["energy_per_atom"] for x in ("Al4", "Al2Cu2", "Mg4", "412", "411"))
    median = float(np.median([r["max_force"] for r in table[:1234]]))
    assert f"median{number(median)}" in page.text["max_force"]
    assert "atoms … and … overlap6" in page.text["failures"].replace("\n", "")
    assert page.sections == ["best", "energy_per_atom", "max_force", "scatter", "failures"]


def test_sections_are_there_where_their_data_is(tmp_path: Path) -> None:
    table = structures(60)
    for k, row in enumerate(table):
        row |= {"converged": k % 4 > 0, "steps": k, "energy_before": row["energy"] + 1.0}
        row |= {"max_devi_f": 0.001 * (k + 1), "e_above_hull": 0.01 * (k - 9) if k < 50 else None}
    identity = IDENTITY | {"relax": "cell", "fmax": 0.02, "steps": 200, "references": {"ref.json": "cc"}}
    told = [{"time": 1000.0 + k, "began": 999.0, "structures": 10, "atoms": 40} for k in range(6)]
    page = made(tmp_path, table, "e_above_hull", told, identity, relaxed=True, models=2, hull=True)
    assert page.sections[-4:] == ["steps", "max_devi_f", "e_above_hull", "throughput"]
    assert "45 of 60 (75 %)" in page.text["steps"]
    assert "15 did not get there in 200 steps" in page.text["steps"]
    assert "no force was larger than 0.02 eV/Å" in page.text["steps"]
    assert "on or below the hull10 of 50 (20 %)" in page.text["e_above_hull"]
    assert "10 structures with an element that has no reference" in page.text["e_above_hull"]
    agree, disagree = page.text["max_devi_f"].split("disagree most")
    assert all(f"first.extxyz:{k}\n" in agree for k in range(5))
    assert all(f"first.extxyz:{k}\n" in disagree for k in range(55, 60))
    assert "10 structures/s" in page.text["throughput"]


def test_where_all_failed_the_page_says_why(tmp_path: Path) -> None:
    page = made(tmp_path, [broken(k, "the model does not know the element Pt") for k in range(3)])
    assert "All 3 structures failed." in page.text[""]
    assert page.sections == ["failures"]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_job_of_next_to_nothing_has_a_page(count: int, tmp_path: Path) -> None:
    page = made(tmp_path, structures(count))
    assert page.sections == [[], ["best"], ["best", "energy_per_atom", "max_force", "scatter"]][count]


def test_a_real_job_writes_it_and_the_same_command_writes_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "STRUCTURES", 4)
    source = input_file(tmp_path, 20)
    screen_here(source, MODEL, tmp_path / "out")
    page = tmp_path / "out" / "report.html"
    before = page.read_bytes()
    assert {"best", "energy_per_atom", "throughput", "failures"} <= set(Page(page).sections)
    page.unlink()
    assert screen_here(source, MODEL, tmp_path / "out").structures == 0
    assert page.read_bytes() == before


def test_without_matplotlib_everything_but_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_pictures = made(tmp_path / "a", structures(50))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    without = made(tmp_path / "b", structures(50))
    assert without.sections == with_pictures.sections
    assert "pip install 'dpa1-fast[plot]'" in without.text[""]
    assert "svg" in dict(with_pictures.tags)
    assert "svg" not in dict(without.tags)


# --- safe and alone -------------------------------------------------------------------------------------------------

EVIL = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</title></table>$x_2$ {{ 7 * 7 }} &lt;")


@pytest.fixture
def hostile(tmp_path: Path) -> Page:
    table = structures(30, formulas=EVIL)
    for k, row in enumerate(table):
        row["source"] = f"set/{EVIL[k % 3]}"
    table += [broken(30 + k, f"{text} at fault") for k, text in enumerate(EVIL)]
    names = dict.fromkeys(EVIL, "aa")
    return made(tmp_path, table, identity=IDENTITY | {"models": names, "inputs": names})


def test_whatever_a_name_holds_it_stays_text(hostile: Page) -> None:
    assert not {"script", "img"} & {tag for tag, _ in hostile.tags}
    assert not any(name.startswith("on") for _, attributes in hostile.tags for name in attributes)
    for text in EVIL:
        assert text in hostile.text[""]
        assert text in hostile.text["failures"]
        assert text in hostile.text["energy_per_atom"]
    assert EVIL[2] in hostile.text["best"], "its energies are the lowest"


def test_nothing_is_fetched(hostile: Page) -> None:
    for tag, attributes in hostile.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "image")
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            assert (attributes.get(name) or "#").startswith("#")
        assert "url(" not in (attributes.get("style") or "").replace("url(#", "")
    assert "url(" not in hostile.style
    assert "@import" not in hostile.style
    assert "http:" not in hostile.source
    assert "https:" not in hostile.source
    identifiers = [a["id"] for _, a in hostile.tags if a.get("id")]
    assert len(set(identifiers)) == len(identifiers)


def test_pictures_have_words_and_tables_have_heads(hostile: Page) -> None:
    figures = [a for tag, a in hostile.tags if tag == "figure"]
    assert len(figures) == 4
    assert all(a["role"] == "img" and len(a["aria-label"] or "") > 20 for a in figures)
    heads = [a for tag, a in hostile.tags if tag == "th"]
    assert heads
    assert all(a["scope"] == "col" for a in heads)
    assert dict(hostile.tags)["html"] == {"lang": "en"}


# --- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["energy_per_atom", "max_force"])
def test_a_histogram_counts_every_structure_where_it_is(name: str, tmp_path: Path) -> None:
    table = structures(3000)
    table[17][name] = 1e9
    table[18]["max_force"] = 1e-9
    summary_of(tmp_path, table)
    numbers = report_numbers.read(tmp_path / summary.NAME, 3000, ["energy_per_atom", "max_force"])
    column = numbers.columns[name]
    edges, counts = column.histogram.shown()
    values = np.array([r[name] for r in table])
    tiny = int((values < 1e-4).sum()) if column.histogram.log else 0
    assert column.histogram.log == (name == "max_force")
    assert counts.sum() + column.histogram.above + column.tiny == 3000
    assert (column.tiny, column.histogram.above, column.largest) == (tiny, 1, 1e9)
    assert edges[-1] < 1e3, "one far away does not squash the others"
    assert np.abs(np.cumsum(counts.sum(axis=0)) + tiny - [(values <= e).sum() for e in edges[1:]]).max() <= 1
    assert sorted(g.count for g in numbers.groups) == [1000, 1000, 1000]
    for group, row in zip(numbers.groups, counts, strict=False):
        mine = [r["energy_per_atom"] for r in table if r["formula"] == group.label]
        assert group.energy == min(mine)
        assert row.sum() <= group.count


def test_many_formulas_are_told_apart_by_their_elements(tmp_path: Path) -> None:
    summary_of(tmp_path, structures(400, formulas=[f"{a}{k}" for k in range(2, 9) for a in ("Al", "MgAl", "Cu")]))
    numbers = report_numbers.read(tmp_path / summary.NAME, 400, ["energy_per_atom", "max_force"])
    assert numbers.kind == "elements"
    assert {g.label: g.count for g in numbers.groups} == {"Al": 134, "MgAl": 133, "Cu": 133}


def test_memory_does_not_grow_with_the_number_of_structures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_numbers, "SAMPLE", 500)
    monkeypatch.setattr(report_numbers, "CHUNK", 2048)
    peaks = []
    for count in (4_000, 40_000):
        summary_of(tmp_path / str(count), structures(count))
        tracemalloc.start()
        numbers = report_numbers.read(tmp_path / str(count) / summary.NAME, count, ["energy_per_atom", "max_force"])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert numbers.sampled
        assert 400 < len(numbers.sample["max_force"]) < 600
    assert peaks[1] < 1.3 * peaks[0]


def test_an_interruption_is_left_out_of_the_time_and_marked() -> None:
    first = [{"time": 100.0 + 2 * k, "began": 98.0, "structures": 10, "atoms": 50} for k in range(5)]
    second = [{"time": 5000.0 + k, "began": 4998.5, "structures": 10, "atoms": 50} for k in range(5)]
    went = pace([*first, *second])
    assert (went.seconds, went.structures, went.atoms) == (10 + 5.5, 100, 500)
    assert went.marks == [10.0]
    assert went.away == 4998.5 - 108.0
    assert np.dot(went.rates, np.diff(went.edges)) == pytest.approx(100)
    assert went.rates[:5] == [5.0] * 5
    many = pace([{"time": float(k), "began": 0.0, "structures": 1, "atoms": 1} for k in range(1, 5000)])
    assert len(many.rates) <= 151


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (number(-1234.56789), "−1,234.5679"), (number(1e-9), "0.0000"), (number(-2.5e12), "−2.50 × 10¹²"),
        (number(float("nan")), "–"), (share(1, 5000), "< 0.1 %"), (share(4999, 5000), "> 99.9 %"),
        (share(1, 3), "33.3 %"), (duration(3.21), "3.2 s"), (duration(7265), "2 h 1 min"),
        (duration(93600), "1 day 2 h"),
    ],
)  # fmt: skip
def test_numbers_are_for_people(text: str, written: str) -> None:
    assert text == written


# --- in a browser ---------------------------------------------------------------------------------------------------

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
ALONE = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--proxy-server=127.0.0.1:9", "--host-resolver-rules=MAP * ~NOTFOUND")  # fmt: skip


@pytest.mark.skipif(BROWSER is None, reason="neither chromium nor google-chrome is installed")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_without_a_network_shows_it(scheme: str, tmp_path: Path) -> None:
    made(tmp_path, [*structures(500), *(broken(500 + k, "overlap") for k in range(20))])
    picture = tmp_path / "page.png"
    command = [str(BROWSER), *ALONE, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,1600",
               f"--blink-settings=preferredColorScheme={int(scheme == 'light')}",
               f"--screenshot={picture}", (tmp_path / "report.html").as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert picture.exists(), done.stderr
    image = pytest.importorskip("PIL.Image").open(picture).convert("RGB")
    pixels = np.asarray(image).astype(int)
    assert pixels.shape == (1600, 1280, 3)
    assert (np.median(pixels) > 200) == (scheme == "light")
    for part in np.array_split(pixels, 4):  # header, table, pictures: something everywhere
        assert part.std() > 5
    coloured = np.ptp(pixels, axis=2) > 60
    assert coloured[700:].mean() > 0.01, "no coloured pictures"
