"""How people's pictures change along a phenotype or with an allele, and where a network responds to the same.

    pictures ─squares→ one number a person (a column of phenotypes, copies of an allele) ─traverse→ averages, difference ± error
                                                                  └─an encoder's features ─direction, response→ the network's view

Averages are of real people; the difference is a regression with covariates taken out, beside it its standard error and what is left
of it after chance. With an encoder (`clinome phenotype`), the direction in which its features change with the number is followed
back to the pixels. Killed and called again, the work goes on where it was.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.cohort.covariates import design
from clinome.core.errors import CohortError, FormatError, StudyError
from clinome.core.files import own_folder, write_array, write_json
from clinome.core.provenance import fingerprint, write_provenance
from clinome.core.schema import PHENOTYPES, TRAVERSAL, check
from clinome.explain.overlay import write_sheet
from clinome.explain.traversal import Traversal, slope_weights, traverse
from clinome.formats.genotype_files import open_genotypes
from clinome.formats.picture import write_picture
from clinome.formats.table import read_table
from clinome.imaging.axes import person_means
from clinome.imaging.convert import content_key, squares
from clinome.imaging.stages import Stages
from clinome.studies.picture_files import leave, listed, plain, withdraw
from clinome.studies.task_file import Pictures

if TYPE_CHECKING:
    from clinome.imaging.learning import Encoder

_GROUPS = 5  # along a trait, where nothing says how many
_STRETCH = 100.0  # grey levels that the largest difference is stretched to
_RESPONSES = 256  # pictures over which a network's response is averaged


@dataclass(frozen=True)
class Along:
    """What pictures are ordered by: ``trait``, a column of ``phenotypes``, or copies of the effect allele of ``variant``.

    The variant is in ``genotypes``. ``covariates`` is a table of people whose columns are taken out of the difference; ``groups``
    of people (five) are cut along a trait; averages are ``size`` pixels a side (None: as the encoder's pictures, or 128).
    """

    trait: str | None = None
    phenotypes: Path | None = None
    variant: str | None = None
    genotypes: str | None = None
    covariates: Path | None = None
    groups: int | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        """Refuse two questions in one, half of one, and what the one that is asked would ignore."""
        if (self.trait is None) == (self.variant is None):
            raise StudyError("pictures are ordered along a trait or by a variant", do="name one of --along and --variant")
        if self.variant is not None and self.genotypes is None:
            raise StudyError("nothing says where the variant is", got=self.variant, do="name a file with --genotypes")
        if self.variant is not None and (self.phenotypes is not None or self.groups is not None):
            do = "leave --phenotypes and --groups out, or order by a column of --phenotypes with --along"
            raise StudyError("by a variant, people are grouped by its genotypes", got=self.variant, do=do)
        if self.trait is not None and self.genotypes is not None:
            do = "leave --genotypes out, or name a --variant instead"
            raise StudyError("along a trait no genotypes are read", got=self.trait, do=do)
        for name, value, least in (("groups", self.groups, 2), ("size", self.size, 8)):
            if value is not None and value < least:
                raise StudyError("a setting is out of range", got=f"{name} {value}", expected=f"from {least}")


class Number(NamedTuple):
    """A number of people: ``values`` by participant_id, and the ``alleles``, effect and other, whose copies it counts, if any."""

    name: str
    values: dict[str, float]
    alleles: tuple[str, str] | None
    unit: str
    files: list[Path]


class Traversed(NamedTuple):
    """What a traversal left: the table ``traversal``, the ``difference`` with its error, and how many pictures there were."""

    groups: pl.DataFrame
    difference: NDArray[np.float64]
    standard_error: NDArray[np.float64]
    pictures: int


def traverse_images(pictures: Pictures, out: Path, along: Along, *, model: Path | None = None, threads: int = 2) -> Traversed:
    """Average people's pictures along a trait or by an allele; leave ``traversal``, ``set_aside``, along.png and arrays.

    ``difference.npy`` and ``standard_error.npy`` (size, size, 3) are in grey levels a standard deviation of the trait, over the
    people who are averaged; or a copy of the effect allele, the slope of the regression on copies or dosages, whatever the allele's
    frequency (a haploid carrier counts as two copies: :mod:`clinome.formats.genotypes`). ``mean_1.npy`` … are the groups' averages.

    Parameters
    ----------
    model
        A folder of `clinome phenotype`: its phenotypes are those of ``along`` unless others are named, and the response of its
        encoder is left as ``response.npy`` and in along.png.

    Raises
    ------
    StudyError
        When there is no such trait or variant.
    CohortError
        When nobody has both a picture and the number, or the number does not vary among those who have.
    FormatError
        When the folder was not made by `clinome phenotype`, or no picture can be read.
    """
    about = None if model is None else _embedding(model)
    number = _number(along, model)
    out, found = own_folder(out, "clinome explain, people's images"), listed(pictures)
    size = along.size or (128 if about is None else int(about["size"]))
    stages, mirror = Stages(out), about is None or bool(about["mirror"])
    key = fingerprint(content_key(found.images, found.root), found.images.rows(), size, mirror)
    if not (stages.has("pictures.npy", key) and stages.has("set_aside.parquet", key)):
        with stages.making("pictures.npy", key) as temporary:
            made = squares(found.images, root=found.root, path=temporary, size=size, mirror=mirror, threads=threads)
        with stages.making("set_aside.parquet", key) as temporary:
            pl.concat([found.set_aside, made.set_aside], how="diagonal_relaxed").write_parquet(temporary)
    pixels = np.load(out / "pictures.npy", mmap_mode="r")
    images = found.images.join(pl.read_parquet(out / "set_aside.parquet"), on="image_id", how="anti", maintain_order="left")
    people, person = np.unique(images["participant_id"].to_numpy(), return_inverse=True)
    score = np.array([number.values.get(one, np.nan) for one in people.tolist()])
    adjust, complete = _covariates(along.covariates, people.tolist())
    score[~complete] = np.nan
    if not np.isfinite(score).any():
        got = f"{len(people):,} people with pictures, {len(number.values):,} with {number.name}"
        got += "" if adjust is None else f", {int(complete.sum()):,} of those with pictures with all covariates"
        raise CohortError("nobody has both a picture and the number", got=got, do="compare the participant_id of the tables")
    alike = None if number.alleles is None else np.rint(score)
    known = np.isfinite(score)
    if not slope_weights(score[known], None if adjust is None else adjust[known]).any():
        got = f"{int(known.sum()):,} people, {number.name} from {score[known].min():g} to {score[known].max():g}"
        do = "name another trait or variant, or leave out the covariates that say it"
        raise CohortError("the number does not vary, or its covariates say all of it", got=got, do=do)
    met = traverse(pixels, person, score, groups=along.groups or _GROUPS, alike=alike, covariates=adjust)
    if number.alleles is not None:  # the slope itself: a copy more, not a deviation
        met = met._replace(difference=met.difference / met.deviation, standard_error=met.standard_error / met.deviation)
    shown: dict[str, NDArray[np.float64]] = {}
    if model is not None and (encoder := _encoder_of(model, number.name)) is not None:
        read_key = fingerprint(key, encoder)
        shown["response"] = _response(encoder, pixels, _Met(person, score, adjust), out, read_key, threads)
    groups = _leave(out, met, number, shown)
    groups_asked = None if number.alleles else along.groups or _GROUPS
    about_run = {"groups": groups_asked, "model": None if model is None else model.name, "unit": number.unit}
    settings = {**_without_folders(along), **about_run}
    write_json(out / "summary.json", _summary(met, number, settings, groups))
    write_provenance(out, inputs=[path for path in (*number.files, along.covariates) if path is not None], settings=settings)
    return Traversed(groups, met.difference, met.standard_error, images.height)


# ----------------------------------------------------------------------------------------------------------------------- numbers


def _embedding(model: Path) -> dict[str, Any]:
    try:
        about: dict[str, Any] = json.loads((model / "embedding.json").read_text(encoding="utf-8"))["config"]
    except (OSError, ValueError, KeyError) as error:
        do = "name a folder of `clinome phenotype`, or leave --model out: averages need none"
        raise FormatError("this folder holds no encoder of people's pictures", where=model, do=do) from error
    return about


def _number(along: Along, model: Path | None) -> Number:
    if along.variant is not None:
        return _copies(str(along.genotypes), along.variant)
    path = along.phenotypes or (None if model is None else model / "phenotypes.parquet")
    if path is None:
        raise StudyError("nothing says where the trait is", got=along.trait, do="name a table with --phenotypes, or --model")
    table = check(read_table(path).frame, PHENOTYPES)
    traits = [name for name in table.columns if name not in ("participant_id", "family_id")]
    if along.trait not in traits:
        raise StudyError("the table has no such trait", where=path, got=along.trait, expected=", ".join(traits))
    if not table[along.trait].dtype.is_numeric():
        raise StudyError("pictures can be ordered along numbers only", where=path, got=f"{along.trait} holds text")
    known = table.select("participant_id", pl.col(along.trait).cast(pl.Float64)).drop_nulls()
    known = known.filter(pl.col(along.trait).is_finite())
    return Number(along.trait, dict(known.rows()), None, f"standard deviation of {along.trait}", [path])


def _copies(path: str, variant: str) -> Number:
    genotypes = open_genotypes(path)
    try:
        rows = np.flatnonzero((genotypes.variants["variant_id"] == variant).to_numpy())
        if len(rows) != 1:
            near = genotypes.variants["variant_id"].head(3).to_list()
            what = "the genotypes have no such variant" if not len(rows) else "the genotypes have several variants of this name"
            raise StudyError(what, where=path, got=variant, expected=f"one of {genotypes.variants.height:,}: {', '.join(near)}, …")
        block, about = genotypes.read(rows), genotypes.variants.row(int(rows[0]), named=True)
        people, files = genotypes.samples["participant_id"].to_list(), list(genotypes.paths)
    finally:
        genotypes.close()
    copies = {one: float(count) / block.scale for one, count in zip(people, block.counts[0], strict=True) if count >= 0}
    alleles = (str(about["effect_allele"]), str(about["other_allele"]))
    return Number(variant, copies, alleles, f"copy of {alleles[0]}", files)


def _covariates(path: Path | None, people: list[str]) -> tuple[NDArray[np.float64] | None, NDArray[np.bool_]]:
    """Return the design of people's covariates, (n_people, n_columns), and who lacks none."""
    if path is None:
        return None, np.ones(len(people), dtype=bool)
    named = pl.DataFrame({"participant_id": people})
    made = design(named.join(read_table(path).frame, on="participant_id", how="left", maintain_order="left"))
    return np.asarray(np.nan_to_num(made.matrix)), made.complete


# ----------------------------------------------------------------------------------------------------------------------- networks


class _Met(NamedTuple):
    """Whose each picture is, (n_pictures,), and the score, (n_people,), and covariates of people."""

    person: NDArray[np.int64]
    score: NDArray[np.float64]
    covariates: NDArray[np.float64] | None


def _encoder_of(model: Path, name: str) -> Path | None:
    """Return the network behind a trait; None where none is: the floor of pixels, or folds and a number that is of none of them."""
    fold = name.split(".")[0]
    return next((p for p in (model / f"encoder_{fold}.safetensors", model / "encoder.safetensors") if p.is_file()), None)


def _response(path: Path, pixels: NDArray[np.uint8], met: _Met, out: Path, key: str, threads: int) -> NDArray[np.float64]:
    """Return the mean response of an encoder, (size, size, 3): what moves its features as the score does; leave response.npy."""
    from clinome.explain.response import direction
    from clinome.imaging.extraction import extract
    from clinome.imaging.learning import Encoder
    from clinome.imaging.loading import Sample

    encoder = Encoder.load(path)

    def read(row: int) -> Sample:
        return Sample(np.ascontiguousarray(np.moveaxis(pixels[row], -1, 0)))

    given: dict[str, Any] = {"preprocessing": encoder.preprocessing, "precision": "float32", "threads": threads}
    features = extract(encoder.network, read, len(pixels), out=out / "features", key=key, **given).values
    known = np.isfinite(met.score)
    means = person_means(features, met.person, len(met.score))[known]
    along = direction(means, met.score[known], None if met.covariates is None else met.covariates[known])
    rows = np.unique(np.linspace(0, len(pixels) - 1, _RESPONSES).astype(int))
    found = _felt(encoder, pixels[rows], along, threads)
    write_array(out / "response.npy", found.astype(np.float32))
    return found


def _felt(encoder: Encoder, pixels: NDArray[np.uint8], along: Any, threads: int) -> NDArray[np.float64]:
    """Return the mean gradient, by grey level, of the features' move ``along`` a direction: (size, size, 3)."""
    import torch
    from torch import nn

    from clinome.explain.response import response
    from clinome.imaging.features import to_tensor
    from clinome.train.devices import choose_device, reproducible

    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = encoder.network

        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            scaled = pictures if encoder.preprocessing is None else encoder.preprocessing.apply(pictures)
            features: torch.Tensor = self.network.features(scaled)  # type: ignore[operator]
            return features

    with reproducible(threads):
        mean = response(Features().to(choose_device()), to_tensor(pixels).contiguous(), along=along).mean
    return np.asarray(mean.permute(1, 2, 0).double().numpy() / 255)


# ------------------------------------------------------------------------------------------------------------------------ results


def _leave(out: Path, met: Traversal, number: Number, shown: dict[str, NDArray[np.float64]]) -> pl.DataFrame:
    """Write the averages, the difference and the sheet of all; return the table of groups."""
    rows = []
    withdraw(out, "traversal.parquet", "mean_*", "difference.npy", "standard_error.npy", "along.png")
    for k, people in enumerate(met.people):
        name = f"mean_{k + 1}.png" if np.isfinite(met.means[k]).all() else None
        if name is not None:
            write_picture(out / name, _levels(met.means[k]))
            write_array(out / f"mean_{k + 1}.npy", met.means[k].astype(np.float32))
        rows.append((k + 1, _label(number, met.lower[k], met.upper[k]), int(people), met.lower[k], met.upper[k], name))
    table = check(pl.DataFrame(rows, schema={c.name: c.dtype for c in TRAVERSAL.columns}, orient="row"), TRAVERSAL)
    leave(out, traversal=table)
    means = [_levels(mean) for mean in met.means if np.isfinite(mean).all()]
    sheet, caption = [np.hstack(means)] if means else [], [f"averages: {', '.join(f'{row[1]} ({row[2]})' for row in rows)}"]
    if np.isfinite(met.difference).all():
        write_array(out / "difference.npy", met.difference.astype(np.float32))
        write_array(out / "standard_error.npy", met.standard_error.astype(np.float32))
        clear = met.clear_of_chance().any(axis=-1, keepdims=True)
        largest = float(np.abs(met.difference).max())
        parts = [_around_grey(met.difference, largest), _around_grey(np.where(clear, met.difference, 0.0), largest)]
        for image in shown.values():
            parts.append(_around_grey(image, float(np.abs(image).max())))
        sheet.append(np.hstack(parts))
        caption.append(f"below: change a {number.unit} (largest {largest:.2g} grey levels); where it is clear of chance (FDR 5 %)")
        caption += ["then: what the network would have to see to move the same way"] if shown else []
    if sheet:
        write_sheet(out / "along.png", sheet, caption)
    return table


def _label(number: Number, lower: float, upper: float) -> str:
    if number.alleles is None:
        return f"{lower:.3g}" if lower == upper else f"{lower:.3g} to {upper:.3g}"
    effect, other = number.alleles
    return f"{other}/{other}" if round(upper) == 0 else f"{effect}/{other}" if round(upper) == 1 else f"{effect}/{effect}"


def _levels(mean: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.clip(np.rint(mean), 0, 255).astype(np.uint8)


def _around_grey(change: NDArray[np.float64], largest: float) -> NDArray[np.uint8]:
    return _levels(128 + change * (_STRETCH / max(largest, 1e-12)))


def _without_folders(along: Along) -> dict[str, Any]:
    return {**plain(along), "genotypes": None if along.genotypes is None else Path(along.genotypes).name}


def _summary(met: Traversal, number: Number, settings: dict[str, Any], groups: pl.DataFrame) -> dict[str, Any]:
    clear = met.clear_of_chance() if np.isfinite(met.difference).all() else None
    return {
        "title": f"Pictures along {number.name}",
        "settings": settings,
        "people": int(groups["people"].sum()),
        "withheld": int(groups["picture_path"].null_count()),
        "pixels_clear_of_chance": None if clear is None else float(clear.any(axis=-1).mean()),
    }
