"""The page of a trained network: the numbers of every section, parts that are not there, and nobody's name."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from toolkit.browser import opened
from toolkit.trained_folder import GAINS, WHO, trained_folder

from clinome.core.errors import FormatError, SchemaError
from clinome.report.drawing import Axis, Chart, axis, histogram, interval_mark, ticks
from clinome.report.examples import examples
from clinome.report.learning import learning
from clinome.report.page import write_report
from clinome.report.quantities import quantities
from clinome.report.reliability import groups, reliability
from clinome.report.results import results
from clinome.report.splits import images, leaks
from tests.report.test_page import Reader

SECTIONS = {"results", "reliability", "groups", "examples", "learning", "images", "leakage", "methods", "provenance"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_folder(tmp_path_factory.mktemp("trained") / "model")


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def test_every_section_is_there_with_its_numbers(page: str) -> None:
    reader = Reader(page)
    assert set(reader.ids) >= SECTIONS
    assert "quantities" not in reader.ids  # metrics tell that these are no predictions of new images
    assert {a[1:] for a in reader.addresses if a.startswith("#")} <= set(reader.ids)
    assert [a for a in reader.addresses if not a.startswith(("#", "data:"))] == []
    for expected in (
        "0.900 (0.830 to 0.960)",
        "0.100 (0.020 to 0.180)",
        "−1.000 (−1.600 to −0.400)",
        "0.415 of the probability of “light”; Youden on 18 rows",
        "Judged on the 32 examples of the split “test”",
        "Better than every floor",
        "Slope (1: as extreme as they should be; below: too extreme): 0.610 (0.400 to 0.900)",
        "Of 203 images, 200 were used.",
        "2 × the file is empty",
        "148; 25.5 ± 3.25",
        "true light, said dark (0.93)",
        "60 of 62 keys matched",
        "ab12" * 16,
        "resnet, 2 of 11,000,000 parameters",
        "bfloat16, channels last",
        "71.5 seconds of processor",
        "Allowed by name: near duplicates",
    ):
        assert expected in reader.text, expected
    assert "Light from &lt;i&gt;pictures&lt;/i&gt;" in page
    assert "<b>north</b>" not in page
    assert len(page) < 120_000  # no plotting library: the plots are in the page
    assert "plotly.js v" not in page


def test_nobody_is_named_and_pictures_can_be_left_out(folder: Path, page: str, tmp_path: Path) -> None:
    assert WHO not in page
    assert page.count("data:image/png;base64,") == 2
    assert "Share this page only where you may share their images" in page
    without = write_report(folder, out=tmp_path / "page.html", pictures=False).read_text(encoding="utf-8")
    assert "data:image" not in without
    assert "2 pictures of examples are left out" in without
    assert WHO not in without


def test_a_gain_whose_interval_holds_0_is_not_shown(folder: Path) -> None:
    found = results(folder)
    assert found is not None
    kind, level = found.judged
    assert kind.verdicts == ("better than every floor: the 95 % interval of the paired gain lies above 0.",)
    assert level.verdicts == (
        "not shown to be better than “pixels, ridge”: the 95 % interval of the paired gain holds 0.",
        "worse than “mean”: the 95 % interval of the paired gain lies below 0.",
    )
    assert found.warnings == tuple(f"level: {line}" for line in level.verdicts)
    assert [row.name for row in kind.rows] == ["model", "pixels, logistic", "shares"]
    assert {
        row.name: (row.gain.value, row.gain.lower, row.gain.upper) for one in found.judged for row in one.rows[1:] if row.gain
    } == GAINS
    assert found.headline[0] == ("AUROC, kind", "0.900 (0.830 to 0.960)")
    assert (level.measure, level.less_is_better, level.people) == ("mean absolute error", True, 31)


def test_a_floor_without_a_paired_gain_is_not_counted_among_those_beaten(folder: Path, tmp_path: Path) -> None:
    metrics = pl.read_parquet(folder / "metrics.parquet")
    metrics.filter(pl.col("predictor") != "model against shares").write_parquet(tmp_path / "metrics.parquet")
    found = results(tmp_path)
    assert found is not None
    assert found.judged[0].verdicts == (
        "better than “pixels, logistic”: the 95 % interval of the paired gain lies above 0.",
        "not compared with “shares”: there is no paired gain with an interval.",
    )
    assert found.judged[0].rows[2].name == "shares"
    assert found.gains == 3
    assert "3 gains stand here, none corrected for their number" in write_report(tmp_path).read_text(encoding="utf-8")
    none = pl.when(pl.col("predictor") == "model against shares").then(None)
    metrics.with_columns(none.otherwise(pl.col(name)).alias(name) for name in ("lower", "upper")).write_parquet(
        tmp_path / "metrics.parquet"
    )
    found = results(tmp_path)
    assert found is not None
    assert "“shares”" in found.judged[0].verdicts[1]
    page = write_report(folder, out=tmp_path / "page.html").read_text(encoding="utf-8")
    assert "4 gains stand here" in page
    assert "Youden on 18 rows. The rule is the same for every floor" in page


def test_a_number_that_is_there_twice_is_refused(folder: Path, tmp_path: Path) -> None:
    for name, of in (("metrics", results), ("subgroups", groups)):
        known = pl.read_parquet(folder / f"{name}.parquet")
        pl.concat([known, known.head(1).with_columns(value=pl.lit(0.1), split=pl.lit("train"))]).write_parquet(
            tmp_path / f"{name}.parquet"
        )
        with pytest.raises(SchemaError, match=rf"a number is in the table twice(.|\n)*{name}\.parquet(.|\n)*'auroc'"):
            of(tmp_path)


def test_what_was_judged_on_validation_or_in_folds_is_said(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    metrics = pl.read_parquet(copy / "metrics.parquet")
    metrics.with_columns(split=pl.lit("validation")).write_parquet(copy / "metrics.parquet")
    found = results(copy)
    assert found is not None
    assert "on the 18 examples of the split “validation”" in found.whom
    assert "There is no test split" in found.warnings[0]
    metrics.with_columns(split=pl.lit(None, pl.String)).write_parquet(copy / "metrics.parquet")
    found = results(copy)
    assert found is not None
    assert found.whom.startswith("Judged on all 50 examples in folds")
    assert "probabilities of different networks are compared" in found.whom
    metrics.with_columns(split=pl.lit("train")).write_parquet(copy / "metrics.parquet")
    found = results(copy)
    assert found is not None
    assert found.whom.endswith("of the split “train”.")
    assert "not of a test split" in found.warnings[0]
    metrics.with_columns(split=pl.lit(None, pl.String)).write_parquet(copy / "metrics.parquet")
    (copy / "predictions.parquet").unlink()
    metrics.filter(pl.col("predictor") == "model").write_parquet(copy / "metrics.parquet")
    found = results(copy)
    assert found is not None
    assert found.whom == "Judged on the split “test”, of which nothing was learnt or chosen."
    assert found.warnings[0] == "kind: not compared with anything: no floor was computed beside it."


def test_the_network_stands_first_whatever_it_is_called(folder: Path, tmp_path: Path) -> None:
    metrics = pl.read_parquet(folder / "metrics.parquet").with_columns(pl.col("predictor").str.replace("model", "fold average"))
    metrics.sort("value").write_parquet(tmp_path / "metrics.parquet")
    found = results(tmp_path)
    assert found is not None
    assert {one.name: one.model.name for one in found.judged} == {"kind": "fold average", "level": "fold average"}


def test_structures_of_a_segmenter_are_told_apart(folder: Path, tmp_path: Path) -> None:
    rows = [
        (name, value, value - 0.1, value + 0.1, who, f"structure={structure}")
        for structure, model, floor in (("anterior", 0.9, 0.7), ("posterior", 0.8, 0.75))
        for name, value, who in (
            ("dice", model, "model"),
            ("dice", floor, "mean shape"),
            ("gain:dice", model - floor, "model against mean shape"),
        )
    ]
    frame = pl.DataFrame(rows, schema=["name", "value", "lower", "upper", "predictor", "subgroup"], orient="row")
    frame.with_columns(interval=pl.lit("how"), split=pl.lit("test"), n=pl.lit(9)).write_parquet(tmp_path / "metrics.parquet")
    (tmp_path / "segmenter").mkdir()
    (tmp_path / "segmenter/segmenter.json").write_text(json.dumps({"threshold": 0.43}))
    found = results(tmp_path)
    assert found is not None
    assert [(one.name, one.measure) for one in found.judged] == [("anterior", "Dice"), ("posterior", "Dice")]
    assert found.judged[0].verdicts[0].startswith("better than every floor")
    assert found.judged[1].verdicts[0].startswith("not shown to be better than “mean shape”")
    assert (found.judged[0].threshold or "").startswith("0.43, of the largest Dice")


def test_curves_of_every_network_by_epoch_with_the_step_kept(folder: Path, tmp_path: Path) -> None:
    found = learning(folder)
    assert found is not None
    assert found.heads == ("Network", "Steps", "epochs", "Step kept", "Training loss there", "AUROC of validation there")
    assert found.rows == (
        ("all, member 1", "20", "4", "10", "0.5", "0.9"),
        ("all, member 2", "20", "4", "10", "0.75", "0.9"),
    )
    assert [caption.split(":")[0] for caption, _ in found.plots] == ["Loss by epoch", "AUROC of validation by epoch"]
    loss = found.plots[0][1]
    assert loss.count("<polyline") == 4  # training and validation of two
    assert "step 10 is kept" in loss
    assert found.curves[0].of("loss") == [(1.0, 1.0), (2.0, 0.5), (3.0, 1 / 3), (4.0, 0.25)]
    (tmp_path / "history.json").write_text(json.dumps([{"step": 3, "epoch": 0, "loss": 2.0, "validation.dice": 0.5}]))
    alone = learning(tmp_path)
    assert alone is not None
    assert alone.rows == (("network", "3", "1", "3", "2", "0.5"),)
    for broken in ('{"curves": [{"part": "all"}]}', '[{"epoch": 0}]', '[{"step": 0}]', "{"):
        (tmp_path / "history.json").write_text(broken)
        with pytest.raises(FormatError, match="no history of a training"):
            learning(tmp_path)
    (tmp_path / "history.json").write_text("[]")
    assert learning(tmp_path) is None


def test_what_is_undefined_or_comes_late_in_a_history(tmp_path: Path) -> None:
    first = {"step": 4, "loss": 2.0}
    rest = [{"step": 8, "loss": 1.0, "validation.auroc": float("nan")}, {"step": 12, "validation.auroc": 0.75}]
    curve = {"part": "all", "member": 1, "records": [first, *rest], "kept": 12, "steps": 12, "watched": "auroc"}
    (tmp_path / "history.json").write_text(json.dumps({"by": "epoch", "curves": [curve]}))
    found = learning(tmp_path)
    assert found is not None
    assert found.rows == (("network", "12", "3", "12", "–", "0.75"),)
    assert found.curves[0].of("validation.auroc") == [(3.0, 0.75)]
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "nan" not in page.partition('id="learning"')[2].partition("</section>")[0]
    assert "the best AUROC of validation: what validation reached there flatters" in page


def test_leaks_come_first_and_what_was_allowed_is_said(folder: Path) -> None:
    found = leaks(folder)
    assert found is not None
    assert [(one.name, one.severity, one.n, one.allowed) for one in found.checks] == [
        ("near duplicates", "leak", "3", True),
        ("time", "information", "2", False),
        ("families", "not checked", "–", False),
        ("participants", "clean", "0", False),
    ]
    assert found.checks[1].note == "examples of test are earlier than the last of train"  # and not when that person was seen
    assert found.warnings == (
        "The split leaks (near duplicates: 3 in test, train) and this was allowed by name: results may flatter.",
    )


def test_images_are_counted_by_reason_and_by_split(folder: Path) -> None:
    found = images(folder)
    assert found is not None
    assert (found.used, found.left) == (200, 3)
    assert found.aside[0] == ("the file is empty", 2)
    assert found.heads == ("train", "validation", "test")
    assert found.rows[:2] == (("examples", "150", "18", "32"), ("people", "149", "17", "31"))
    few = "fewer than 10 people"
    assert found.rows[2:] == (
        ("kind: dark", "75", few, "16"),
        ("kind: light", "75", few, "16"),
        ("level (known; mean ± deviation)", "148; 25.5 ± 3.25", "16; 25.5 ± 3.25", "30; 25.5 ± 3.25"),
    )


def test_counts_of_fewer_than_ten_people_are_not_told(folder: Path, tmp_path: Path) -> None:
    counts = pl.read_parquet(folder / "counts.parquet").filter(split="test")
    people = pl.when(pl.col("class") == "dark").then(1).when(target="level").then(2).otherwise("people")
    counts.with_columns(people=people, n=pl.when(pl.col("class") == "dark").then(3).otherwise("n")).write_parquet(
        tmp_path / "counts.parquet"
    )
    found = images(tmp_path)
    assert found is not None
    few = "fewer than 10 people"
    assert found.rows == (
        ("examples", "32"),
        ("people", "31"),
        ("kind: dark", few),
        ("kind: light", "withheld"),  # 32 less these would tell
        ("level (known; mean ± deviation)", few),
    )
    counts.with_columns(people=pl.when(pl.col("class") == "dark").then(0).otherwise("people")).write_parquet(
        tmp_path / "counts.parquet"
    )
    found = images(tmp_path)
    assert found is not None
    assert found.rows[3] == ("kind: light", "16")  # of nobody nothing is told
    counts.head(0).write_parquet(tmp_path / "counts.parquet")
    assert images(tmp_path) is None


def test_groups_that_are_too_small_are_named_alone_and_gaps_said(folder: Path) -> None:
    (found,) = groups(folder)
    assert [(one.name, one.people) for one in found.groups] == [
        ("everybody", 31),
        ("sex: female", 16),
        ("sex: male", 15),
        ("site: <b>north</b>", None),
    ]
    assert found.gaps == ("AUROC differs by 0.250 (0.100 to 0.400) between the groups of “sex” (sex=female less sex=male)",)
    assert found.measured == 2  # the other's interval holds 0
    assert "Of 2 gaps that were measured, 1 has an interval above 0:" in write_report(folder).read_text(encoding="utf-8")


def test_the_reliability_curve_stands_where_its_numbers_are(folder: Path) -> None:
    found = reliability(folder)
    assert found is not None
    (curve,) = found.curves
    assert (curve.name, curve.examples, curve.of_number) == ("kind: light", 30, False)
    assert re.findall(r"<title>([^<]*)</title>", curve.chart)[1] == "predicted 0.500, true 0.400, 10 examples"
    across, down = 380 - 52 - 12, 340 - 10 - 44
    dots = [(float(x), float(y)) for x, y in re.findall(r'<circle class="dot s0" cx="([\d.]+)" cy="([\d.]+)"', curve.chart)]
    assert dots == [(round(p * across, 1), round(down * (1 - seen), 1)) for p, seen in ((0.1, 0.2), (0.5, 0.4), (0.9, 1.0))]


def test_calibration_is_said_once_a_target_and_of_the_network_alone(folder: Path, tmp_path: Path) -> None:
    bins = pl.read_parquet(folder / "reliability.parquet")
    pl.concat([bins, bins.with_columns(pl.lit("dark").alias("class"))]).write_parquet(tmp_path / "reliability.parquet")
    metrics = pl.read_parquet(folder / "metrics.parquet")
    own = metrics.filter(name="calibration_slope")
    more = [own.with_columns(predictor=pl.lit("shares"), value=pl.lit(7.0)), own.with_columns(name=pl.lit("ece"))]
    pl.concat([metrics, *more]).write_parquet(tmp_path / "metrics.parquet")
    found = reliability(tmp_path)
    assert found is not None
    assert [curve.name for curve in found.curves] == ["kind: light", "kind: dark"]
    ((target, facts),) = found.facts
    assert target == "kind"
    assert [value for _, value in facts] == ["0.610 (0.400 to 0.900)"] * 2
    assert facts[1][0].startswith("of the likeliest class, expected calibration error")
    assert write_report(tmp_path).read_text(encoding="utf-8").count("0.610 (0.400 to 0.900)") == 2 + 2  # and in every measure


def test_a_picture_outside_the_folder_or_gone_is_not_shown(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    shutil.copy(copy / "pictures/001.png", tmp_path / "elsewhere.png")
    table = pl.read_parquet(copy / "examples.parquet")
    table.with_columns(path=pl.Series(["../elsewhere.png", "pictures/002.png"])).write_parquet(copy / "examples.parquet")
    found = examples(copy)
    assert found is not None
    assert [(one.kind, [picture.number for picture in one.pictures]) for one in found.groups] == [("worst", [2])]
    assert found.lost == 1
    shutil.rmtree(copy / "pictures")
    page = write_report(copy).read_text(encoding="utf-8")
    assert "data:image/png" not in page
    assert "2 pictures of examples are left out" in page


@pytest.mark.parametrize(
    ("name", "sections"),
    [
        ("metrics.parquet", {"results"}),
        ("history.json", {"learning"}),
        ("leakage.parquet", {"leakage"}),
        ("counts.parquet", {"images"}),
        ("set_aside.parquet", {"images"}),
        ("predictions.parquet", {"quantities"}),
    ],
)
def test_a_folder_without_parts_gives_the_page_without_them(folder: Path, tmp_path: Path, name: str, sections: set[str]) -> None:
    shutil.copy(folder / name, tmp_path / name)
    reader = Reader(write_report(tmp_path).read_text(encoding="utf-8"))
    assert (SECTIONS | {"quantities", "participants", "association"}) & set(reader.ids) == sections


def test_predictions_of_new_images_are_counted_and_drawn(folder: Path, tmp_path: Path) -> None:
    table = pl.read_parquet(folder / "predictions.parquet").drop("kind", "level").with_columns(split=pl.lit("new"))
    table.write_parquet(tmp_path / "predictions.parquet")
    found = quantities(tmp_path)
    assert found is not None
    assert found.about == "What the predictor says of 50 images."
    rows = {row[0]: row[1:] for row in found.rows}
    assert rows["kind: dark is likeliest"][:2] == ("25", "0.45")
    assert rows["level"] == ("50", "25.5", "14.58", "3.45", "25.5", "47.55")
    assert len(found.plots) == 2
    assert found.warnings == ()
    ends = [float(n) for n in re.findall(r"<title>([\d.]+) to", found.plots[1][1])]
    assert ends[0] == 3.45  # the least and the largest are single people
    certain = [int(n) for n in re.findall(r"to [\d.]+: (\d+)", found.plots[0][1])]
    assert sum(certain) == 50


def test_what_is_said_of_people_of_the_training_is_told_apart(folder: Path, tmp_path: Path) -> None:
    table = pl.read_parquet(folder / "predictions.parquet").drop("kind", "level")
    splits = ["train"] * 12 + ["validation"] * 6 + ["test"] * 7 + ["new"] * 25
    table.with_columns(split=pl.Series(splits)).write_parquet(tmp_path / "predictions.parquet")
    found = quantities(tmp_path)
    assert found is not None
    assert found.about == (
        "What the predictor says of 50 images. 12 are of people whom it learnt from. 6 are of people on whom its training was "
        "watched. 7 are of people on whom it was tested."
    )
    assert found.warnings == ("12 of 50 images are of people whom the network learnt from: it may remember these.",)
    assert found.warnings[0] in write_report(tmp_path).read_text(encoding="utf-8").partition("<h2")[2]
    folds = pl.Series(["fold_1", "fold_2"] * 25)
    table.with_columns(split=folds, participant_id=pl.Series(["p1", "p2"] * 25)).write_parquet(tmp_path / "predictions.parquet")
    found = quantities(tmp_path)
    assert found is not None
    assert found.about.endswith("50 are of people of its training, asked of networks that had not seen them.")
    assert found.warnings == ()
    assert [row[1:] for row in found.rows[:2]] == [("fewer than 10 people", *["–"] * 5)] * 2  # fifty images of two people
    assert found.plots == ()


def test_segmentations_and_measured_traits_have_sections_of_their_own(tmp_path: Path) -> None:
    ids = [f"i{k}" for k in range(12)]
    masks = {"image_id": ids, "mask_path": [None, *ids[1:]], "certainty": [None, None, *(k / 20 + 0.4 for k in range(10))]}
    (tmp_path / "s").mkdir()
    pl.DataFrame(masks).write_parquet(tmp_path / "s/segmentations.parquet")
    found = quantities(tmp_path / "s")
    assert found is not None
    assert found.about == "11 images were segmented. In 1 of them nothing was found."
    (tmp_path / "m").mkdir()
    people = pl.DataFrame({"participant_id": ids, "vessels.calibre": [*range(1, 12), None]}).cast({"vessels.calibre": pl.Float64})
    people.write_parquet(tmp_path / "m/phenotypes.parquet")
    rule = {"repeats": "mean", "visits": "first", "eyes": "mean", "source": "own masks"}
    trait = {"trait": "vessels.calibre", "unit": "px", "measurements": 12, "flagged": 1, "people": 11, "people_without": 1}
    pl.DataFrame([trait | rule]).write_parquet(tmp_path / "m/measured_traits.parquet")
    icc = {"trait": "vessels.calibre", "measure": "left_right_icc", "value": 0.871, "lower": None, "upper": None, "n": 11}
    pl.DataFrame([icc], schema_overrides={"lower": pl.Float64, "upper": pl.Float64}).write_parquet(tmp_path / "m/quality.parquet")
    few = people.with_columns(pl.when(pl.int_range(pl.len()) < 9).then("vessels.calibre").alias("vessels.calibre"))
    few.write_parquet(tmp_path / "m/phenotypes.parquet")
    measured = quantities(tmp_path / "m")
    assert measured is not None
    assert measured.rows[0][2:7] == ("–",) * 5
    assert measured.plots == ()
    people.write_parquet(tmp_path / "m/phenotypes.parquet")
    measured = quantities(tmp_path / "m")
    assert measured is not None
    assert measured.rows == (("vessels.calibre (px)", "11", "6", "3.317", "1.5", "6", "10.5", "1", "0.87", "–"),)
    assert "Measured traits" in Reader(write_report(tmp_path / "m").read_text(encoding="utf-8")).text


@pytest.mark.slow
def test_a_browser_finds_no_fault_with_the_page(page: str, tmp_path: Path, program: Callable[[str], str]) -> None:
    path = tmp_path / "report.html"
    act = """<script>
const note = (name, value) => { document.documentElement.dataset[name] = value; };
const count = () => document.querySelectorAll("details:not([open])").length;
note("folded", count());
window.dispatchEvent(new Event("beforeprint"));
note("printed", count());
window.dispatchEvent(new Event("afterprint"));
note("after", count());
</script></body>"""
    path.write_text(page.replace("</body>", act), encoding="utf-8")
    document = opened(program("chromium"), path, tmp_path / "profile", seconds=3)
    head = re.search(r"<html[^>]*>", document)
    assert head is not None
    assert 'data-plots="drawn"' in head.group()
    assert "data-error" not in head.group()
    assert re.findall(r'data-(?:folded|printed|after)="(\d)"', head.group()) == ["2", "0", "2"]  # what is folded up is printed


def test_plots_stand_where_their_numbers_are() -> None:
    chart = Chart(Axis(0.0, 10.0, "x"), Axis(0.0, 1.0, "y"), label='a "<plot>"', width=164, height=154)  # 100 × 100 pixels
    chart.line([(0, 0), (5, 0.5), (20, 2)], "s1")
    assert 'points="0,100 50,50 100,0"' in chart.svg()  # what lies beyond stands at the end
    assert 'aria-label="a &quot;&lt;plot&gt;&quot;"' in chart.svg()
    mark = interval_mark(0.5, 0.25, 1.0, Axis(-1.0, 1.0), zero=True)
    assert re.findall(r'x1="([\d.]+)" x2="([\d.]+)"', mark) == [("0", "190"), ("95", "95"), ("118.8", "190")]
    assert 'cx="142.5"' in mark
    assert interval_mark(None, None, None, Axis(0, 1)) == ""
    assert axis([None, float("nan"), 2.0, 4.0]) == (1.9, 4.1, "")
    assert ticks(Axis(0.61, 0.64), 4) == [0.61, 0.62, 0.63, 0.64]
    assert ticks(axis([7.0, 7.0]))[0] > 6  # one value alone
    counted = [int(n) for n in re.findall(r": (\d+)</title>", histogram([0.0, 0.1, 0.1, 1.0], "x", label="x", bins=10))]
    assert counted == [1, 2, 1]
