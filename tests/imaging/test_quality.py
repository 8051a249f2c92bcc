from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from clinome.core.schema import QUALITY, check
from clinome.imaging.features import views
from clinome.imaging.quality import nuisance_r2, quality
from clinome.stats.reliability import Estimate, icc


def study(n_people: int = 300, seed: int = 1) -> tuple[pl.DataFrame, np.ndarray]:
    """Trait 0 is the person's, trait 1 is noise, trait 2 the scanner's, trait 3 a half person half illumination."""
    generator = np.random.default_rng(seed)
    rows, values = [], []
    for p in range(n_people):
        person = generator.normal()
        for visit in (0, 1):
            scanner = int(generator.integers(3))
            for side in ("left", "right"):
                light = generator.normal()
                rows.append((f"p{p}", side, visit, f"s{scanner}", light, f"{p}{side}{visit}", "x"))
                own = person + 0.5 * generator.normal()
                values.append((own, generator.normal(), scanner + 0.01 * generator.normal(), person + light))
    columns = ["participant_id", "laterality", "visit", "scanner", "illumination", "image_id", "path"]
    return pl.DataFrame(rows, schema=columns, orient="row"), np.array(values)


def value(table: pl.DataFrame, trait: str, measure: str) -> float:
    return float(table.filter((pl.col("trait") == trait) & (pl.col("measure") == measure))["value"].item())


def test_each_measure_says_what_is_true() -> None:
    images, values = study()
    names = ["person", "noise", "scanner", "light"]
    shares = {name: Estimate(0.25, 0.2, 0.3, 300) for name in names}
    table = quality(values, images, views(images), traits=names, shares=shares, min_reliability=0.5)
    check(table, QUALITY)
    assert value(table, "person", "left_right_icc") == pytest.approx(1 / (1 + 0.25 / 2), abs=0.04)  # two visits averaged
    assert value(table, "person", "test_retest_icc") == pytest.approx(1 / (1 + 0.25 / 2), abs=0.04)
    assert abs(value(table, "noise", "left_right_icc")) < 0.12
    assert value(table, "scanner", "left_right_icc") > 0.99  # both eyes of a visit share it …
    assert abs(value(table, "scanner", "test_retest_icc")) < 0.12  # … two visits do not
    assert value(table, "scanner", "nuisance_r2:scanner") > 0.99
    assert value(table, "light", "nuisance_r2:illumination") == pytest.approx(0.5, abs=0.05)
    assert value(table, "person", "nuisance_r2:illumination") < 0.02
    assert [value(table, n, "reliable") for n in names] == [1.0, 0.0, 0.0, 0.0] or value(table, "light", "test_retest_icc") > 0.5
    assert value(table, "noise", "variance_share") == 0.25
    assert table.filter(pl.col("measure") != "reliable").select((pl.col("lower") <= pl.col("upper")).all()).item()


def test_r2_equals_least_squares() -> None:
    images, values = study(60)
    seen = views(images)
    y, x = values[:, 3], images["illumination"].to_numpy()
    assert nuisance_r2(y, images["illumination"], seen).value == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2)
    dummies = images["scanner"].to_dummies().to_numpy().astype(float)
    fitted = dummies @ np.linalg.lstsq(dummies, y, rcond=None)[0]
    assert nuisance_r2(y, images["scanner"], seen).value == pytest.approx(fitted.var() / y.var())


def test_resampling_keeps_the_pictures_of_a_person_together() -> None:
    """With four copies of each picture the interval is that of the people, not four times too sure."""
    images, values = study(80)
    one = images.filter((pl.col("visit") == 0) & (pl.col("laterality") == "left"))
    y = values[:, 3][((images["visit"] == 0) & (images["laterality"] == "left")).to_numpy()]
    four = pl.concat([one] * 4)
    single = nuisance_r2(y, one["illumination"], views(one))
    copies = nuisance_r2(np.tile(y, 4), four["illumination"], views(four))
    assert copies.value == pytest.approx(single.value)
    assert (copies.lower, copies.upper) == pytest.approx((single.lower, single.upper))


def test_the_interval_of_a_share_of_variance_holds_nothing_where_there_is_nothing() -> None:
    """Quantiles of resamples never held 0: every camera seemed to matter."""
    inside = {"sites": 0, "light": 0}
    for seed in range(60):
        generator = np.random.default_rng(seed)
        people = [f"p{i}" for i in range(150)]
        rows = {"image_id": people, "participant_id": people, "path": "x", "laterality": "left", "visit": 0}
        images = pl.DataFrame(rows).with_columns(
            sites=pl.Series(generator.choice([f"s{i}" for i in range(12)], 150)), light=pl.Series(generator.normal(size=150))
        )
        y = generator.normal(size=150)
        for name in inside:
            found = nuisance_r2(y, images[name], views(images), resamples=200, seed=seed)
            inside[name] += found.lower == 0 <= found.value
            assert found.upper > 0
    assert inside["sites"] >= 57
    assert inside["light"] >= 52
    half = nuisance_r2(y + images["light"].to_numpy(), images["light"], views(images))
    assert 0.3 < half.lower < half.value < half.upper < 0.7


def test_missing_eyes_visits_and_values() -> None:
    images, values = study(100)
    keep = np.random.default_rng(2).random(images.height) < 0.7
    images, column = images.filter(pl.Series(keep)), values[keep, 0]
    column[:5] = np.nan
    seen = views(images)
    table = quality(column[:, None], images, seen, traits=["t"])
    means = np.full((len(seen.people), 2), np.nan)
    for p in range(len(seen.people)):
        for side in (0, 1):
            mine = column[(seen.person == p) & (seen.eye == side)]
            if np.isfinite(mine).any():
                means[p, side] = np.nanmean(mine)
    expected = icc(means)
    assert value(table, "t", "left_right_icc") == pytest.approx(expected.value)
    assert table.filter(pl.col("measure") == "left_right_icc")["n"].item() == expected.n < 100


def test_one_eye_one_visit_has_neither_icc() -> None:
    images, values = study(50)
    one = ((images["visit"] == 0) & (images["laterality"] == "left")).to_numpy()
    table = quality(values[one], images.filter(pl.Series(one)), views(images.filter(pl.Series(one))), traits=list("abcd"))
    assert set(table["measure"]) == {"nuisance_r2:scanner", "nuisance_r2:illumination"}


def test_reliability_is_that_of_held_out_scores_and_nuisance_that_of_the_trait() -> None:
    generator = np.random.default_rng(8)
    person = np.repeat(np.arange(120), 2)
    columns = {
        "participant_id": [f"p{k:03d}" for k in person],
        "laterality": ["left", "right"] * 120,
        "light": generator.normal(size=240),
    }
    images = pl.DataFrame(columns)
    own = generator.normal(size=120)[person][:, None]
    table = quality(own, images, views(images), traits=["t"], held_out=generator.normal(size=(240, 1)))
    assert abs(value(table, "t", "left_right_icc")) < 0.3
    same = quality(own, images, views(images), traits=["t"])
    assert value(same, "t", "left_right_icc") == pytest.approx(1)
    assert value(table, "t", "nuisance_r2:light") == value(same, "t", "nuisance_r2:light")
