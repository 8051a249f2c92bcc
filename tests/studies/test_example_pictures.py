"""Which examples are shown: the worst, typical ones, the least certain; a person once; nothing of a run before."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from clinome.core.schema import EXAMPLES, check
from clinome.imaging.measure.contact_sheet import Case
from clinome.imaging.thumbnails import SAID
from clinome.studies.example_pictures import (
    LeastCertain,
    Shown,
    disagreeing,
    leave_examples,
    of_contours,
    of_overlaps,
    of_predictions,
)

N = 40


def predictions() -> pl.DataFrame:
    """Forty test rows of twenty people, two each, and a validation row that would be the worst of all."""
    light = np.linspace(0.02, 0.98, N)
    table = pl.DataFrame(
        {
            "example_id": [f"e{k}" for k in range(N)],
            "participant_id": [f"p{k // 2}" for k in range(N)],
            "split": ["test"] * N,
            "kind": ["light"] * N,
            "age": np.full(N, 50.0),
            "predicted:kind:dark": 1 - light,
            "predicted:kind:light": light,
            "predicted:age": 50.0 + np.arange(N),
        }
    )
    other = table.head(1).with_columns(example_id=pl.lit("v"), split=pl.lit("validation"), **{"predicted:age": pl.lit(900.0)})
    return pl.concat([table, other])


def chosen(table: pl.DataFrame) -> list[Shown]:
    places = {name: k for k, name in enumerate(table["example_id"])}
    return list(of_predictions(table, np.zeros((table.height, 1, 6, 6)), places, dims=2))


def of(shown: list[Shown], target: str, kind: str) -> list[str]:
    return [one.example_id for one in shown if (one.target, one.kind) == (target, kind)]


def test_the_worst_the_typical_and_the_least_certain_of_what_is_judged() -> None:
    shown = chosen(predictions())
    assert of(shown, "kind", "worst") == [f"e{k}" for k in range(0, 16, 2)]  # of two of a person, the worse
    assert of(shown, "age", "worst") == [f"e{k}" for k in range(39, 23, -2)]
    assert set(of(shown, "kind", "least certain")) == {f"e{k}" for k in (13, 15, 17, 19, 20, 22, 24, 26)}
    assert set(of(shown, "age", "typical")) == {"e19", "e20", "e17", "e22"}
    worst = shown[0]
    assert (worst.truth, worst.prediction, worst.measure) == ("light", "dark (0.98)", "probability of the truth")
    assert worst.value is not None
    assert abs(worst.value - 0.02) < 1e-12
    oldest = next(one for one in shown if one.target == "age")
    assert (oldest.truth, oldest.prediction, oldest.value) == ("50", "89", 39.0)


def test_what_is_said_goes_by_the_threshold_that_is_measured_by() -> None:
    table = predictions()
    places = {name: k for k, name in enumerate(table["example_id"])}
    shown = list(of_predictions(table, np.zeros((N + 1, 1, 6, 6)), places, dims=2, thresholds={"kind": 0.7}))
    least = [one for one in shown if (one.target, one.kind) == ("kind", "least certain")]
    light = dict(zip(table["example_id"], table["predicted:kind:light"], strict=True))
    away = [abs(light[one.example_id] - 0.7) for one in least]
    assert away == sorted(away)
    assert max(away) < 0.2
    assert {one.measure for one in least} == {"distance from the threshold"}
    for one in (one for one in shown if one.target == "kind"):
        said = "light" if light[one.example_id] >= 0.7 else "dark"
        assert one.prediction == f"{said} (light {light[one.example_id]:.2f}, from 0.70)"


def test_of_new_images_the_least_certain_alone() -> None:
    shown = chosen(predictions().drop("kind", "age").with_columns(split=pl.lit("new")))
    assert {(one.target, one.kind) for one in shown} == {("kind", "least certain")}
    assert all(one.truth is None for one in shown)
    assert shown[0].prediction in ("dark (0.51)", "light (0.51)")


def test_examples_replace_those_that_were_there(tmp_path: Path) -> None:
    shown = chosen(predictions())
    leave_examples(tmp_path, shown)
    table = check(pl.read_parquet(tmp_path / "examples.parquet"), EXAMPLES)
    assert table.height == len(shown) == len(list((tmp_path / "pictures").iterdir()))
    assert all((tmp_path / path).read_bytes() == one.png for path, one in zip(table["path"], shown, strict=True))
    leave_examples(tmp_path, shown[:2])
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["001.png", "002.png"]
    leave_examples(tmp_path, ())
    assert not list(tmp_path.iterdir())


def test_the_least_certain_outlines_of_many_are_kept() -> None:
    generator = np.random.default_rng(0)
    sure = generator.permutation(np.linspace(0.5, 1.0, 60))
    least, drawn = LeastCertain(), np.zeros((12, 12), int)
    drawn[3:8, 3:8] = 1
    for k, value in enumerate(sure):
        least.see(f"i{k}", np.zeros((1, 12, 12)), drawn, float(value))
    least.see("empty", np.zeros((1, 12, 12)), 0 * drawn, None)
    shown = list(least.shown("outlines"))
    assert [one.example_id for one in shown] == [f"i{k}" for k in np.argsort(sure)[:16]]
    assert [one.value for one in shown] == sorted(sure)[:16]


def test_segmented_test_images_go_by_their_mean_dice() -> None:
    rows = [(f"c{k}", f"p{k}", s, dice) for k in range(20) for s, dice in (("a", k / 40), ("b", k / 40 + 0.5))]
    overlaps = pl.DataFrame(rows, schema=["example_id", "participant_id", "structure", "dice"], orient="row")
    pictures = {f"c{k}": b"png" for k in range(20)}
    shown = list(of_overlaps(overlaps, pictures, {f"c{k}": 1 - k / 20 if k else None for k in range(20)}, ["a", "b"]))
    worst = [one for one in shown if one.kind == "worst"]
    assert [one.example_id for one in worst] == [f"c{k}" for k in range(8)]
    assert [one.value for one in worst[:2]] == [0.25, 0.275]
    assert {one.example_id for one in shown if one.kind == "typical"} == {"c9", "c10", "c8", "c11"}
    assert [one.example_id for one in shown if one.kind == "least certain"] == [f"c{k}" for k in range(19, 11, -1)]
    pairs = overlaps.with_columns(
        participant_id=pl.lit("p") + (pl.col("example_id").str.slice(1).cast(pl.Int64) // 2).cast(pl.String)
    )
    shown = list(of_overlaps(pairs, pictures, {f"c{k}": 1 - k / 20 for k in range(20)}, ["a", "b"]))
    assert [one.example_id for one in shown if one.kind == "worst"] == [
        f"c{k}" for k in range(0, 16, 2)
    ]  # of two of a person, the worse
    assert [one.example_id for one in shown if one.kind == "least certain"] == [f"c{k}" for k in range(19, 3, -2)]


def test_outlines_are_shown_without_their_names() -> None:
    labels = np.zeros((30, 30), int)
    labels[10:20, 10:20] = 1
    case = Case("PERSON-7781", np.zeros((30, 30, 3), np.uint8), labels, float("nan"))
    (one,) = of_contours([case], "disc")
    picture = np.asarray(Image.open(io.BytesIO(one.png)))
    assert {tuple(colour) for colour in picture.reshape(-1, 3).tolist()} == {(0, 0, 0), SAID}
    assert one.value is None
    volume = disagreeing(np.zeros((1, 4, 30, 30)), np.stack([labels] * 4), np.stack([labels, labels, 0 * labels, labels]))
    assert len(np.unique(np.asarray(Image.open(io.BytesIO(volume))).reshape(-1, 3), axis=0)) == 2  # the slice that was missed
