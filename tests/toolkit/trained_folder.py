"""A small folder as `clinome train` leaves it, with known numbers: a class that is learnt, and a number that is not shown to be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
from PIL import Image

from clinome.core.schema import COUNTS, EXAMPLES, LEAKAGE, METRICS, RELIABILITY, SET_ASIDE, Table, check

WHO = "PERSON-7781"  # stands in every table that names people or images, and must not stand on the page
TIME = "examples of test are earlier than the last of train (2019-05-03)"
HOW = "95 % expanded percentile, 1,000 resamples of participants"
GAINS = {
    "pixels, logistic": (0.1, 0.02, 0.18),
    "shares": (0.4, 0.31, 0.47),
    "pixels, ridge": (0.2, -0.3, 0.7),
    "mean": (-1.0, -1.6, -0.4),
}


def trained_folder(folder: Path) -> Path:
    """Write the tables, JSON files and pictures of a trained predictor into ``folder`` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {
        "metrics": check(_frame(_metrics(), METRICS), METRICS),
        "subgroups": check(_frame(_groups(), METRICS), METRICS),
        "predictions": _predictions(),
        "reliability": check(_frame(_bins(), RELIABILITY), RELIABILITY),
        "counts": check(_frame(_counts(), COUNTS), COUNTS),
        "leakage": check(_frame(_leaks(), LEAKAGE), LEAKAGE),
        "set_aside": check(_frame(_aside(), SET_ASIDE), SET_ASIDE),
        "examples": check(_frame(_examples(folder), EXAMPLES), EXAMPLES),
    }
    for name, table in made.items():
        table.write_parquet(folder / f"{name}.parquet")
    for name, value in {
        "history": _history(),
        "predictor": _predictor(),
        "provenance": _provenance(),
        "summary": _summary(),
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def _frame(rows: list[dict[str, Any]], table: Table) -> pl.DataFrame:
    schema = {column.name: column.dtype for column in table.columns}
    return pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema)


def _metric(
    name: str, target: str, who: str, value: float, lower: float | None, upper: float | None, **more: Any
) -> dict[str, Any]:
    about = {"subgroup": "all", "predictor": who, "split": "test", "n": 31, "target": target, **more}
    return {"name": name, "value": value, "lower": lower, "upper": upper, "interval": HOW if lower is not None else "none", **about}


def _metrics() -> list[dict[str, Any]]:
    rows = [
        _metric("auroc", "kind", "model", 0.9, 0.83, 0.96),
        _metric("auroc", "kind", "pixels, logistic", 0.8, 0.7, 0.88),
        _metric("auroc", "kind", "shares", 0.5, None, None),
        _metric("accuracy", "kind", "model", 0.8125, 0.7, 0.9),
        _metric("calibration_slope", "kind", "model", 0.61, 0.4, 0.9),
        _metric("mae", "level", "model", 4.0, 3.5, 4.4),
        _metric("mae", "level", "pixels, ridge", 4.2, 3.6, 4.8),
        _metric("mae", "level", "mean", 3.0, 2.5, 3.5),
    ]
    for who, gain in GAINS.items():
        measure, target = ("auroc", "kind") if who in ("pixels, logistic", "shares") else ("mae", "level")
        rows.append(_metric(f"gain:{measure}", target, f"model against {who}", *gain))
    return rows


def _groups() -> list[dict[str, Any]]:
    return [
        _metric("auroc", "kind", "model", 0.9, 0.83, 0.96),
        _metric("auroc", "kind", "model", 0.95, 0.9, 0.99, subgroup="sex=female", n=16),
        _metric("auroc", "kind", "model", 0.7, 0.6, 0.8, subgroup="sex=male", n=15),
        {"name": "auroc", "target": "kind", "subgroup": "site=<b>north</b>", "interval": "not shown: fewer than 10 people"},
        _metric("gap:auroc", "kind", "model", 0.25, 0.1, 0.4, subgroup="sex") | {"interval": f"{HOW}; sex=female less sex=male"},
        _metric("gap:brier", "kind", "model", 0.05, -0.1, 0.2, subgroup="sex") | {"interval": f"{HOW}; sex=male less sex=female"},
    ]


def _predictions() -> pl.DataFrame:
    n = 50
    ids = [f"{WHO}-{k}" for k in range(n)]
    return pl.DataFrame(
        {
            "example_id": ids,
            "participant_id": ids,
            "split": ["validation"] * 18 + ["test"] * 32,
            "kind": ["dark", "light"] * 25,
            "level": [float(k) for k in range(n)],
            "predicted:kind:dark": [0.7, 0.2] * 25,
            "predicted:kind:light": [0.3, 0.8] * 25,
            "predicted:level": [float(k) + 1 for k in range(n)],
        }
    )


def _bins() -> list[dict[str, Any]]:
    edges = [(0.1, 0.2), (0.5, 0.4), (0.9, 1.0)]
    return [
        {"target": "kind", "class": "light", "from": p - 0.05, "to": p + 0.05, "predicted": p, "observed": seen, "n": 10}
        | {"lower": max(seen - 0.1, 0), "upper": min(seen + 0.1, 1)}
        for p, seen in edges
    ]


def _counts() -> list[dict[str, Any]]:
    rows = []
    for split, n in (("train", 150), ("validation", 18), ("test", 32)):
        rows.append({"split": split, "n": n, "people": n - 1})
        rows += [{"split": split, "target": "kind", "class": name, "n": n // 2, "people": n // 2} for name in ("dark", "light")]
        rows.append({"split": split, "target": "level", "n": n - 2, "people": n - 2, "mean": 25.5, "deviation": 3.25})
    return rows


def _leaks() -> list[dict[str, Any]]:
    return [
        {"check": "participants", "splits": "", "n": 0, "examples": "", "severity": "clean", "note": ""},
        {
            "check": "families",
            "splits": "",
            "n": None,
            "examples": "",
            "severity": "not checked",
            "note": "there is no column 'family_id'",
        },
        {"check": "time", "splits": "test, train", "n": 2, "examples": WHO, "severity": "information", "note": TIME},
        {"check": "near_duplicates", "splits": "test, train", "n": 3, "examples": WHO, "severity": "leak", "note": "copies"},
    ]


def _aside() -> list[dict[str, Any]]:
    return [
        {"image_id": f"{WHO}-{k}", "path": f"{WHO}.png", "what": what, "reason": f"{what} in {WHO}.png"}
        for k, what in enumerate(["the file is empty", "the file is empty", "nothing that is to be learnt is known of the image"])
    ]


def _examples(folder: Path) -> list[dict[str, Any]]:
    (folder / "pictures").mkdir()
    rows = []
    for k, (kind, truth, said) in enumerate([("typical", "dark", "dark (0.70)"), ("worst", "light", "dark (0.93)")], start=1):
        Image.new("RGB", (4, 4), (40 * k, 0, 0)).save(folder / f"pictures/{k:03d}.png")
        about = {"example_id": f"{WHO}-{k}", "kind": kind, "target": "kind", "measure": "probability of the truth"}
        rows.append(about | {"truth": truth, "prediction": said, "value": 0.07 * k, "path": f"pictures/{k:03d}.png"})
    return rows


def _history() -> dict[str, Any]:
    curves = []
    for member, scale in ((1, 1.0), (2, 1.5)):
        records = [
            {
                "step": 5 * k,
                "epoch": k - 1,
                "learning_rate": 0.1,
                "loss": scale / k,
                "validation.loss": 1.0,
                "validation.auroc": auroc,
            }
            for k, auroc in enumerate([0.6, 0.9, 0.7, 0.65], start=1)
        ]
        curves.append({"part": "all", "member": member, "records": records, "kept": 10, "steps": 20, "watched": "auroc"})
    return {"by": "epoch", "curves": curves}


def _predictor() -> dict[str, Any]:
    coded = [{"name": "kind", "classes": ["dark", "light"]}, {"name": "level", "classes": []}]
    return {"key": "k", "targets": {"all": coded}, "thresholds": {"kind": 0.415}, "thresholds_from": {"kind": "Youden on 18 rows"}}


def _provenance() -> dict[str, Any]:
    weights = {
        "name": "start.safetensors",
        "sha256": "ab12" * 16,
        "layout": "own",
        "source": "torchvision/resnet18",
        "matched": 60,
        "missing": 2,
    }
    training = {"network": "resnet", "networks": 2, "parameters": 11_000_000, "precision": "bfloat16, channels last"}
    return {"seed": 4, "settings": {"training": training | {"device": "cpu", "cpu_seconds": 71.5, "weights": weights}}}


def _summary() -> dict[str, Any]:
    return {"kind": "train", "title": "Light from <i>pictures</i>", "allowed": ["near_duplicates"], "settings": {"size": 112}}
