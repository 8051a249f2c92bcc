"""Why a trained network says what it says of pictures: maps, pictures of them, and the figures that say how far to believe them.

    images ─read, bad files set aside─→ the network's pictures ─methods─→ maps, overlays, explanations
                                                              └─randomised networks─→ sanity

Integrated gradients are kept only where they add up (:mod:`clinome.explain.completeness`); the others are counted, named, and end
the command with an error once all else is written. Every method is asked once whether its maps depend on what the network has
learned (:mod:`clinome.explain.sanity`). Of several networks (members, folds) the maps are averaged. Killed and called again, the
work goes on where it was and ends with the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clinome.core.errors import FormatError, NotConverged
from clinome.core.files import file_name, own_folder, usable_folder, write_json
from clinome.core.progress import track
from clinome.core.provenance import fingerprint, write_provenance
from clinome.core.schema import EXPLANATIONS, SANITY, SET_ASIDE, check
from clinome.explain.asking import Target, answers
from clinome.explain.sanity import randomise_model
from clinome.imaging.convert import content_key
from clinome.imaging.prediction import read_predictor
from clinome.imaging.reading import set_aside_table
from clinome.imaging.stages import Stages
from clinome.studies.maps import How, averaged, files_of, kind_of, map_of, refuse, written
from clinome.studies.picture_files import Listed, all_aside, decoded, leave, listed, withdraw
from clinome.studies.questions import Asked, Group, Question, chosen_targets, kind_taken, of_predictor, of_segmenter, said_by
from clinome.studies.task_file import Pictures
from clinome.train.devices import reproducible

BELIEVED = 0.5  # largest size of the rank correlation with the maps of randomised networks
_BY = "clinome explain, a model"
_TOGETHER = 16  # pictures between two entries into the list of what is done
_TESTED = 4  # pictures on which a method is tested
_DRAWS = 3  # random networks for that: of one, a coarse map may be alike by chance


def explain_images(
    model: Path, pictures: Pictures, out: Path, *, targets: Sequence[str] = (), how: How | None = None, threads: int = 2
) -> pl.DataFrame:
    """Explain what the predictor or segmenter in ``model`` says of every image; return ``explanations``.

    Leaves ``explanations`` and ``sanity`` (``core.schema``), ``set_aside``, maps as .npy on the grid of the network's picture, and
    PNG files of them over the picture.

    Parameters
    ----------
    model
        What `clinome train` wrote, or the folder `segmenter` in it.
    targets
        What is explained: a target ('age'; of classes the likeliest of each picture), a class ('kind:light'), or a structure of a
        segmenter; all by default.

    Raises
    ------
    FormatError
        When the folder holds no trained model, or no image can be read.
    StudyError
        For a target that it does not have, or a method that it cannot be asked by.
    NotConverged
        Once all is written, when integrated gradients of some images do not add up.
    """
    model = model / "segmenter" if (model / "segmenter" / "segmenter.json").is_file() else model
    segments = (model / "segmenter.json").is_file()
    how = (how or How()).settled("blurred" if segments else "mean")
    out, found, asked, aside = _asked(model, pictures, out, targets, how, segments=segments)
    key = fingerprint(asked.files, content_key(asked.images, found.root), asked.images.rows(), list(targets), how)
    stages, rows = Stages(usable_folder(out / "work")), list[dict[str, Any]]()
    names = _names(asked.images["image_id"].to_list())
    withdraw(out, "explanations.parquet", "sanity.parquet", "set_aside.parquet")  # maps stay: those of this run are gone on from
    with reproducible(threads):
        sanity = _sanity(asked, how, stages, key)
        for start in track(range(0, asked.images.height, _TOGETHER), "explaining images"):
            some = list(range(start, min(start + _TOGETHER, asked.images.height)))
            piece = f"{start:08d}.json"
            if not _whole(stages, piece, key, out):
                made = [one for group in asked.groups(some) for one in _explained(group, asked, names, how, out)]
                faults = {row: fault for row, fault in asked.faults.items() if row in some}
                with stages.making(piece, key) as temporary:
                    temporary.write_text(json.dumps({"rows": made, "faults": faults}), encoding="utf-8")
            saved = json.loads((stages.folder / piece).read_text(encoding="utf-8"))
            rows += saved["rows"]
            asked.faults.update({int(row): tuple(fault) for row, fault in saved["faults"].items()})
    schema = {c.name: c.dtype for c in EXPLANATIONS.columns if c.name in asked.images.columns or c.required}
    table = check(pl.DataFrame(rows, schema=schema), EXPLANATIONS)
    late = set_aside_table(asked.images, asked.faults)
    aside = check(pl.concat([aside, late], how="diagonal_relaxed"), SET_ASIDE)
    leave(out, explanations=table, sanity=sanity, set_aside=aside)
    write_json(out / "summary.json", _summary(model, table, sanity, how))
    write_provenance(out, inputs=asked.files, settings={"model": model.name, "targets": list(targets), **asdict(how)})
    _require(table, out)
    return table


def _asked(
    model: Path, pictures: Pictures, out: Path, targets: Sequence[str], how: How, *, segments: bool
) -> tuple[Path, Listed, Asked, pl.DataFrame]:
    """Return the folder, the images, the model as it is asked, and what is set aside so far; targets and methods are seen first."""
    if segments:
        found = listed(pictures)
        asked = of_segmenter(model, found, pictures, targets)
        for method in how.methods:
            refuse(method, asked.network, torch.zeros(0))
        return own_folder(out, _BY), found, asked, found.set_aside
    known = read_predictor(model)
    kind, chosen, networks = kind_taken(known), chosen_targets(targets, known), said_by(known)
    for method in how.methods:
        refuse(method, next(iter(networks.values()))[0], torch.zeros(1, kind.channels, *known.preparation.shape))
    out, found = own_folder(out, _BY), listed(pictures)
    as_taught = replace(pictures, mirror=known.preparation.mirrored)
    kept = decoded(found, as_taught, out, size=max(known.preparation.shape), kind=kind)
    asked = of_predictor(model, known, networks, chosen, kept, found.images[kept.decoded.rows])
    return out, found, asked, all_aside(found, kept.decoded)


def _whole(stages: Stages, piece: str, key: str, out: Path) -> bool:
    """Tell whether a piece of the list was made with ``key`` and all the files that it names are there."""
    if not stages.has(piece, key):
        return False
    rows = json.loads((stages.folder / piece).read_text(encoding="utf-8"))["rows"]
    return all((out / one[name]).is_file() for one in rows for name in ("map_path", "picture_path") if one.get(name))


def _names(image_ids: list[str]) -> list[str]:
    taken: set[str] = set()
    return [file_name(name, taken) for name in image_ids]


# ------------------------------------------------------------------------------------------------------------------------- maps


def _explained(group: Group, asked: Asked, names: list[str], how: How, out: Path) -> list[dict[str, Any]]:
    """Make, write and draw the maps of a group, left and right as in the files; return rows of the table."""
    rows, images = [], asked.images
    columns = [name for name in ("image_id", "participant_id", "split") if name in images.columns]
    who = [dict(zip(columns, images.select(columns).row(row), strict=True)) for row in group.rows]
    for question in group.questions:
        said: NDArray[Any] | None = None
        if not group.note:
            said = np.mean([answers(network, group.inputs, target=question.of).numpy() for network in group.networks], axis=0)
        for method in how.methods:
            maps, sums = (None, {}) if said is None else averaged(method, group, question, how)
            for k, row in enumerate(group.rows):
                one: dict[str, Any] = {**who[k], "target": question.target, "class": question.classes[k], "method": method}
                one |= {"unit": question.unit, "said": None if said is None else float(said[k]), "note": group.note}
                one |= {name: values[k].item() for name, values in sums.items()}
                if maps is not None and one.get("adds_up", True):
                    way = slice(None, None, -1 if asked.mirrored[row] else 1)
                    one |= written(out, names[row], one, group.inputs[k].numpy()[..., way], maps[k][..., way])
                elif maps is not None:
                    one["note"] = "the attributions do not add up: no map is given"
                    for file in files_of(names[row], one).values():  # of a run with another tolerance
                        (out / file).unlink(missing_ok=True)
                rows.append(one)
    return rows


# ------------------------------------------------------------------------------------------------------------------------ checks


def _sanity(asked: Asked, how: How, stages: Stages, key: str) -> pl.DataFrame:
    """Return how alike each method's maps stay when the network is randomised (``core.schema.SANITY``)."""
    if not stages.has("sanity.parquet", key):
        tested = _tested(asked)
        rows = [row for method in how.methods for some in tested for row in _randomised(method, some, how)]
        table = pl.DataFrame(rows, schema={c.name: c.dtype for c in SANITY.columns})
        with stages.making("sanity.parquet", key) as temporary:
            table.write_parquet(temporary)
    return check(pl.read_parquet(stages.folder / "sanity.parquet"), SANITY)


def _tested(asked: Asked) -> list[list[tuple[Group, Question]]]:
    """Return what to test on: of each target the first groups with something to ask about, until they are of enough pictures."""
    found: dict[str, list[tuple[Group, Question]]] = {}
    for start in range(0, asked.images.height, _TESTED):
        for group in asked.groups(list(range(start, min(start + _TESTED, asked.images.height)))):
            for question in [] if group.note else group.questions:
                mine = found.setdefault(question.target, [])
                if _pictures(mine) < _TESTED:
                    mine.append((group, question))
        if found and (start >= 3 * _TESTED or all(_pictures(mine) >= _TESTED for mine in found.values())):
            break
    if not found and len(asked.faults) == asked.images.height:
        raise FormatError("no image can be explained", got=next(iter(asked.faults.values()))[1])
    return list(found.values())


def _pictures(some: Sequence[tuple[Group, Question]]) -> int:
    return sum(len(group.inputs) for group, _ in some)


def _randomised(method: str, some: Sequence[tuple[Group, Question]], how: How) -> list[dict[str, Any]]:
    """Return the rows of a method and target: how alike the maps of the first network and of randomised copies of it are."""
    alike, layers = list[NDArray[Any]](), tuple[str, ...]()
    for group, question in some:

        def attribute(network: nn.Module, inputs: Tensor, of: Target = question.of) -> Tensor:
            return torch.from_numpy(map_of(method, network, inputs, of, how, quick=True).maps)

        how_tested: dict[str, Any] = {"points": 2, "signed": kind_of(method) == "signed"}
        how_tested |= {"generator": torch.Generator().manual_seed(0), "before": attribute(group.networks[0], group.inputs)}
        draws = [randomise_model(group.networks[0], group.inputs, attribute, **how_tested) for _ in range(_DRAWS)]
        alike += [one.similarity for one in draws]
        layers = tuple(draws[0].layers)
    joined = np.concatenate(alike, axis=1)  # (layers, draws × images)
    means = [float(np.nanmean(values)) if np.isfinite(values).any() else None for values in joined]
    return [
        {"method": method, "target": some[0][1].target, "down_to": layer, "similarity": value, "n": _pictures(some)}
        for layer, value in zip(layers, means, strict=True)
    ]


def _summary(model: Path, table: pl.DataFrame, sanity: pl.DataFrame, how: How) -> dict[str, Any]:
    worst = likeness(sanity)
    return {
        "title": f"Explanations of {model.name}",
        "settings": asdict(how),
        "maps": int(table["map_path"].is_not_null().sum()),
        "do_not_add_up": int((~table["adds_up"]).sum()),
        "sanity": {f"{method} of {target}": value for method, target, value in worst.rows()},
    }


def likeness(sanity: pl.DataFrame) -> pl.DataFrame:
    """Return, of each method and target, the rank correlation of its maps with those of wholly randomised networks."""
    return sanity.group_by("method", "target", maintain_order=True).agg(pl.col("similarity").last())


def _require(table: pl.DataFrame, out: Path) -> None:
    missed = table.filter(~pl.col("adds_up"))
    if not missed.height:
        return
    ratio = ((missed["attributed"] - missed["explained"]).abs() / missed["allowed"]).fill_nan(float("inf"))
    worst = missed.row(int(ratio.arg_max() or 0), named=True)
    raise NotConverged(
        "attributions do not add up to the difference that they explain; their maps are withheld, the others are written",
        where=f"{out / 'explanations.parquet'}: {missed.height:,} of {table['adds_up'].count():,}, worst {worst['image_id']}",
        got=f"a sum of {worst['attributed']:.6g}",
        expected=f"{worst['explained']:.6g} ± {worst['allowed']:.2g}",
        do="take another --baseline, or raise --tolerance and say so with the maps",
    )
