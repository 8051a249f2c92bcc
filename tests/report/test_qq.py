from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from clinome.report.qq import FLAGS, MOST_TESTS, band, quantiles


def save(folder: Path, tests: list[str], lambdas: dict[str, float]) -> Path:
    (folder / "gwas").mkdir()
    curve = np.linspace(0, 4, 9)
    parts = [
        pl.DataFrame({"test": t, "frequency_bin": "all", "expected": curve, "observed": curve * (1 + i)})
        for i, t in enumerate(tests)
    ]
    pl.concat(parts).write_parquet(folder / "gwas/qq.parquet")
    rows = [(test, "all", value, 10_000, "high" if value > 1.1 else None) for test, value in lambdas.items()]
    names = ["test", "frequency_bin", "lambda_gc", "n_variants", "flag"]
    frame = pl.DataFrame(rows, schema=names, schema_overrides={"flag": pl.String}, orient="row")
    frame.write_parquet(folder / "gwas/lambdas.parquet")
    return folder


def test_band_covers_simulated_uniform_order_statistics(generator: np.random.Generator) -> None:
    n, runs = 400, 3_000
    sorted_p = np.sort(generator.random((runs, n)), axis=1)
    found = band(n)
    rank = np.rint(10 ** -np.array(found["expected"]) * n + 0.5).astype(int)
    observed = -np.log10(sorted_p[:, rank - 1])
    inside = np.mean((observed >= np.array(found["lower"]) - 5e-4) & (observed <= np.array(found["upper"]) + 5e-4), axis=0)
    wide = np.array(found["expected"]) > 0.02  # nearer to p = 1 the band is as narrow as the rounding of its ends
    assert wide.sum() > 30
    assert np.all(np.abs(inside[wide] - 0.95) < 0.02)


def test_a_high_lambda_is_marked_and_the_joint_tests_come_first(tmp_path: Path) -> None:
    found = quantiles(save(tmp_path, ["weight", "omnibus"], {"weight": 10.0, "omnibus": 1.01, "rare": float("nan")}))
    assert found is not None
    assert [test for test, _ in found.lambdas] == ["omnibus", "weight", "rare"]
    assert found.flagged == 1
    cell = found.lambdas[1][1][0]
    assert cell is not None
    assert cell.flag is not None
    assert cell.flag == FLAGS["high"]
    assert found.data is not None
    assert found.data["tests"][1]["curves"][0]["lambda"] == 10.0
    assert found.data["tests"][0]["band"]["expected"][-1] == pytest.approx(4.301, abs=0.01)


def test_of_very_many_tests_the_strongest_curves_are_kept(tmp_path: Path) -> None:
    tests = [f"t{i}" for i in range(100)]
    found = quantiles(save(tmp_path, tests, dict.fromkeys(tests, 1.0)))
    assert found is not None
    assert found.data is not None
    assert [t["name"] for t in found.data["tests"]] == tests[-MOST_TESTS:]
    assert found.left_out == 100 - MOST_TESTS
    assert len(found.lambdas) == 100
