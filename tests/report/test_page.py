"""The whole page: what it holds, that it needs nothing else, and that its plots are really drawn in a browser."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
from toolkit.browser import opened
from toolkit.result_folder import LEADS, TRAITS, result_folder

from clinome.core.errors import FormatError, OutputError, SchemaError, StudyError
from clinome.report.page import write_report


class Reader(HTMLParser):
    """Collects what a page would load, its ids, its elements, and the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.styles: list[str] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "action", "poster", "data", "background", "ping"):
                self.addresses.append(value or "")
            if name == "id":
                self.ids.append(value or "")
            if name == "style":
                self.styles.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "style":
            self.styles.append(data)
        elif self.inside != "script":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return result_folder(tmp_path_factory.mktemp("result"))


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def data_of(page: str) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))  # type: ignore[no-any-return]


def test_loads_nothing_from_anywhere(page: str) -> None:
    reader = Reader(page)
    assert len(reader.addresses) > 20
    assert [a for a in reader.addresses if not a.startswith(("#", "data:"))] == []
    assert not [s for s in reader.styles if "url(" in s or "@import" in s]
    assert "default-src 'none'" in page
    assert page.count("plotly.js v") == 1


def test_every_anchor_leads_somewhere_and_ids_are_unique(page: str) -> None:
    reader = Reader(page)
    assert len(reader.ids) == len(set(reader.ids))
    assert {a[1:] for a in reader.addresses if a.startswith("#")} <= set(reader.ids)


def test_every_part_is_there(page: str) -> None:
    reader = Reader(page)
    sections = {"participants", "phenotypes", "association", "calibration", "loci", "truth", "methods", "provenance"}
    assert sections <= set(reader.ids)
    for number, (chromosome, position, trait, value, _) in enumerate(LEADS, start=1):
        assert f"locus-{number}" in reader.ids
        assert f"{chromosome}:{position:,}" in reader.text
        assert trait in reader.text
        assert f"{value:.1f}" in reader.text
    for expected in ("GRCh38", "2×10⁻³²", "gwas.missing_genotypes", "1,000,000", "Python"):
        assert expected in reader.text
    assert "Loci were clumped at r² 0.1 within 1 Mb." in reader.text


def test_names_that_look_like_html_stay_text(page: str) -> None:
    assert "<b>dimension_03</b>" not in page
    assert "λ of &lt;b&gt;dimension_03&lt;/b&gt;" in page
    assert "<i>TMCO1" not in page.replace("<i>&lt;i&gt;TMCO1", "")
    assert "</script" not in re.search(r'id="data">(.*?)</script>', page, re.DOTALL).group(1)  # type: ignore[union-attr]


def test_a_trait_may_close_a_script(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    nasty = "a/b</script><script>alert(1)</script>"
    for name in ("gwas/manhattan.parquet", "loci/loci.parquet"):
        frame = pl.read_parquet(copy / name)
        frame.with_columns(pl.lit(nasty).alias("best_trait")).write_parquet(copy / name)
    page = write_report(copy).read_text()
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert data_of(page)["manhattan"]["words"]["best_trait"] == [nasty]  # type: ignore[index]


def test_the_same_folder_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    first, second = (write_report(folder, out=tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert first == second
    assert not list(tmp_path.glob(".*"))


def test_sections_without_tables_are_absent(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "flow.parquet", tmp_path)
    page = write_report(tmp_path).read_text()
    reader = Reader(page)
    assert "participants" in reader.ids
    assert not {"phenotypes", "association", "calibration", "loci", "truth", "methods", "provenance"} & set(reader.ids)
    assert len(page) < 100_000  # without a plot the plotting library stays out


@pytest.mark.parametrize(
    "name", ["gwas/manhattan.parquet", "phenotypes/quality.parquet", "loci/truth.parquet", "gwas/lambdas.parquet"]
)
def test_one_table_alone_makes_a_page(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir()
    shutil.copy(folder / name, tmp_path / name)
    assert write_report(tmp_path).stat().st_size > 10_000


def test_a_folder_without_results_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"holds no results to report[\s\S]*gwas/manhattan.parquet"):
        write_report(tmp_path)
    with pytest.raises(StudyError, match="no such folder"):
        write_report(tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


def test_broken_parts_are_named(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(FormatError, match=r"not JSON[\s\S]*summary\.json"):
        write_report(tmp_path)
    (tmp_path / "summary.json").unlink()
    (tmp_path / "flow.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(FormatError, match=r"cannot be read as Parquet[\s\S]*flow\.parquet"):
        write_report(tmp_path)
    pl.DataFrame({"stage": ["a"], "reason": ["b"], "dropped": [1]}).write_parquet(tmp_path / "flow.parquet")
    with pytest.raises(SchemaError, match=r"'remaining' is missing"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_page_that_cannot_be_written_is_an_error(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_report(folder, out=tmp_path / "file" / "report.html")


# What a reader does, done by a script in the page; what then stands there is written where the test can read it.
READER = """<script>
const wait = () => document.documentElement.dataset.plots === "drawn" ? act() : setTimeout(wait, 50);
const note = (name, value) => { document.documentElement.dataset[name] = value; };
const pause = () => new Promise((resume) => setTimeout(resume, 400));
const points = () => document.querySelectorAll("#plot-manhattan .point").length;
async function act() {
  const plot = document.getElementById("plot-manhattan");
  note("first", points());
  note("names", plot.layout.annotations.map((each) => each.text).join("|"));
  note("hover", plot.data[3].text[0]);
  document.querySelectorAll("input[name=view]")[2].click();
  await pause();
  note("third", points());
  note("caption", [...document.querySelectorAll(".view-caption")].findIndex((each) => !each.hidden));
  const chromosome = JSON.parse(document.getElementById("data").textContent).manhattan.chromosomes[1];
  await Plotly.relayout(plot, { "xaxis.range[0]": chromosome.start + 1e7, "xaxis.range[1]": chromosome.start + 2e7 });
  await pause();
  note("axis", plot.layout.xaxis.title.text + ": " + plot.layout.xaxis.ticktext.join(" "));
  document.getElementById("whole-genome").click();
  await pause();
  note("whole", plot.layout.xaxis.ticktext.join(" "));
  const table = document.querySelector("#loci table");
  table.querySelectorAll("thead button")[5].click();
  note("sorted", [...table.tBodies[0].rows].map((row) => row.cells[0].textContent.trim()).join(" "));
  const test = document.getElementById("qq-test");
  test.value = "2"; test.dispatchEvent(new Event("change"));
  document.getElementById("theme").click();
  await pause();
  note("paper", getComputedStyle(document.body).backgroundColor);
  const width = () => document.querySelector("#plot-manhattan .main-svg").getBoundingClientRect().width;
  note("wide", width());
  window.dispatchEvent(new Event("beforeprint"));
  await pause();
  note("printed", width());
  note("printedtheme", document.documentElement.dataset.theme);
  window.dispatchEvent(new Event("afterprint"));
  await pause();
  note("back", width());
  note("acted", "yes");
}
wait();
</script></body>"""


@pytest.mark.slow
def test_plots_are_drawn_and_obey(page: str, tmp_path: Path, program: Callable[[str], str]) -> None:
    path = tmp_path / "report.html"
    path.write_text(page.replace("</body>", READER), encoding="utf-8")
    document = opened(program("chromium"), path, tmp_path / "profile")
    head = re.search(r"<html[^>]*>", document)
    assert head is not None
    noted = dict(re.findall(r'data-([a-z]+)="([^"]*)"', head.group()))
    assert "error" not in noted
    assert noted["plots"] == "drawn"
    assert noted["acted"] == "yes"
    views = {view["key"]: view for view in data_of(page)["manhattan"]["views"]}  # type: ignore[index]
    assert int(noted["first"]) == len(views["study_wide"]["points"]) + len(LEADS) > 1_000
    assert int(noted["third"]) == len(views["omnibus"]["points"]) + len(LEADS)
    assert noted["caption"] == "2"
    assert noted["names"].startswith("1 &lt;i&gt;SIX6&lt;/i&gt;|")
    assert "&amp;lt;i&amp;gt;TMCO1" in noted["names"]  # the gene's own < stays text
    assert "rs1" in noted["hover"]
    assert "EAF 0." in noted["hover"]
    assert noted["axis"] == "Chromosome 2, Mb: 10 12 14 16 18 20"
    assert noted["whole"] == "1 2 X"
    assert noted["sorted"] == "1 4 2 3"  # by −log10 p
    assert noted["paper"] == "rgb(18, 23, 28)"
    assert float(noted["printed"]) < 700 < float(noted["wide"]) == float(noted["back"])  # as wide as paper, then back
    assert (noted["printedtheme"], noted["theme"]) == ("light", "dark")
    assert document.count('class="main-svg"') >= 3 * (4 + len(LEADS))  # Manhattan, QQ, losses, evidence, and a region each
    assert "Share chart" not in re.sub(r"<script.*?</script>", "", document, flags=re.DOTALL)
    assert all(trait in document for trait in TRAITS)
