"""Measured phenotypes against what was drawn, and between two observers of real photographs.

    .venv/bin/python benchmarks/measured_phenotypes.py --drive ../shared/data/drive-vessels

Simulated eyes: correlation of each trait with the anatomy that drew it, from the vessels' own outlines, from outlines that the
Laplacian-of-Gaussian floor finds in the photograph (its darkest twelfth), and for disc and cup from the detector. DRIVE: agreement
of the two observers of the test set. The record goes to benchmarks/results/measured_phenotypes.json.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from clinome.core.files import write_json
from clinome.core.provenance import provenance
from clinome.evaluate.agreement import agreement
from clinome.formats.picture import read_picture
from clinome.imaging.measure.disc import find_disc, measure_found
from clinome.imaging.measure.vessels import measure_vessels
from clinome.imaging.vessel_floor import vessel_floor
from clinome.simulate import anatomy, fundus, vessels

RECORD = Path(__file__).parent / "results" / "measured_phenotypes.json"
SIZE = 512


def simulated(n: int, seed: int) -> dict[str, Any]:
    """Correlate traits with the anatomy of ``n`` eyes."""
    generator = np.random.default_rng(seed)
    eyes = anatomy.photographed(generator.standard_normal((n, 6)), np.zeros(n, int), generator)
    eyes = eyes.take(np.arange(0, 4 * n, 4) + generator.integers(0, 4, n))
    view, fields = fundus._view(eyes, SIZE), fundus._aperture(eyes, SIZE) > 0.5
    tree = vessels.grow(eyes.geometry, calibre=eyes.calibre, tortuosity=eyes.tortuosity, branching=eyes.branching)
    chords = vessels.optical_depth(tree, size=SIZE, view=view, blur=np.zeros(n, np.float32))
    pictures = fundus.render_fundus(eyes, size=SIZE, generator=generator)
    middles = np.einsum("nij,j->ni", view.matrix, np.array(fundus.DISC)) + view.middle
    found: dict[str, dict[str, list[float]]] = {"outlines": {}, "photographs": {}, "disc": {}}
    truth: dict[str, list[float]] = {"width": [], "length": []}
    off = []
    for k in range(n):
        score = vessel_floor(pictures[k].transpose(2, 0, 1), fields[k])
        outlines = {
            "outlines": chords[k].sum(axis=0) * view.scale[k] > 0.5,
            "photographs": score > np.quantile(score[fields[k]], 11 / 12),
        }
        for how, outline in outlines.items():
            for trait in measure_vessels(outline, field=fields[k]):
                found[how].setdefault(trait.name, []).append(trait.value)
        drawn = find_disc(pictures[k])
        off.append(float(np.hypot(drawn.circle.column - middles[k, 0], drawn.circle.row - middles[k, 1]) / view.scale[k]))
        for trait in measure_found(drawn):
            found["disc"].setdefault(trait.name, []).append(trait.value)
        found["disc"].setdefault("radius", []).append(drawn.circle.radius / float(view.scale[k]))
        widths = [2 * line.radius[k] * view.scale[k] for line in tree]
        steps = [(line.step * line.present)[k][:, None] * (line.x[k] ** 2 + line.y[k] ** 2 < 0.97) for line in tree]
        weight = np.concatenate([(s * (w > 1)).ravel() for s, w in zip(steps, widths, strict=True)])
        truth["width"].append(float(np.average(np.concatenate([w.ravel() for w in widths]), weights=weight)))
        truth["length"].append(float(sum(s.sum() for s in steps)))

    def r(how: str, name: str, of: object) -> float:
        values, true = np.array(found[how][name]), np.asarray(of, dtype=np.float64)
        seen = np.isfinite(values)
        return round(float(np.corrcoef(values[seen], true[seen])[0, 1]), 3)

    result: dict[str, Any] = {
        how: {
            "calibre with drawn width": r(how, "calibre", truth["width"]),
            "tortuosity with its latent": r(how, "tortuosity", eyes.tortuosity),
            "curvature with tortuosity's latent": r(how, "curvature", eyes.tortuosity),
            "length_density with drawn length": r(how, "length_density", truth["length"]),
            "fractal_dimension with drawn length": r(how, "fractal_dimension", truth["length"]),
            "branch_points with branching's latent": r(how, "branch_points", eyes.branching),
            "mean branching_angle": round(float(np.nanmean(found[how]["branching_angle"])), 1),
        }
        for how in ("outlines", "photographs")
    }
    result["disc"] = {
        "found within half a radius": float(np.mean(np.array(off) < 0.5 * eyes.disc_radius)),
        "radius with its latent": r("disc", "radius", eyes.disc_radius),
        "cup-disc ratio with its latent": r("disc", "vertical_cup_disc_ratio", eyes.cup_ratio),
    }
    return result | {"drawn branching angle": round(float(np.degrees(0.80)), 1), "eyes": n}


def observers(folder: Path) -> dict[str, Any]:
    """Compare the two observers of DRIVE's test set, trait by trait."""
    found: dict[str, np.ndarray] = {}
    for k in range(20):
        picture, fov, first, second = (
            read_picture(folder / "test" / f"{k + 1:02d}_{name}.png") for name in ("image", "fov", "manual1", "manual2")
        )
        disc = find_disc(picture).circle
        for observer, outline in enumerate((first, second)):
            for trait in measure_vessels(outline[..., 0] > 0, field=fov[..., 0] > 0, disc=disc):
                found.setdefault(trait.name, np.full((2, 20), np.nan))[observer, k] = trait.value
    result = {}
    for name, (one, other) in found.items():
        rows = agreement(one, other).select("name", "value", "lower", "upper").rows_by_key("name", named=True, unique=True)
        result[name] = {"mean": float(one.mean())} | {m: rows[m] for m in ("icc", "bias", "lower_limit", "upper_limit")}
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--eyes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--drive", type=Path)
    arguments = parser.parse_args()
    start = time.perf_counter()
    record: dict[str, Any] = {"simulated": simulated(arguments.eyes, arguments.seed)}
    if arguments.drive is not None:
        record["drive"] = observers(arguments.drive)
    record["seconds"] = round(time.perf_counter() - start)
    write_json(RECORD, record | {"provenance": provenance(seed=arguments.seed)})
