"""Pictures to phenotypes: train an encoder, average its features over a person's pictures, keep a few axes, measure their quality.

    images table ─decode→ squares ─who may teach?→ encoder ─apply→ features ─average→ people ─few axes→ phenotypes, quality

Beside the network's features stand the plain ones (:mod:`clinome.imaging.floors`): what pixels say already need not be learned.
``encoder='pixels'`` uses those alone, without training, and nobody is left out: the floor to compare with. So does 'transfer', a
network that was trained on other pictures (transferGWAS, Kirchler 2022, doi:10.1093/bioinformatics/btac369), or on none: random
weights are a floor that says how much of a network's success is its architecture.

**An encoder never phenotypes a person it has seen** (nor that person's family): what it memorised of them would look like a
precise phenotype. Either it is trained on people who are then left out of the association (``training='outside'``), or in
folds, each encoder applied to the fold that it has not seen (``'cross-fit'``). The axes of two encoders are unrelated, so the
traits of a fold carry its name (``fold1.dim01``) and are null for everyone else; they must not be pooled as one trait.

>>> from clinome.formats.table import read_checked
>>> images = read_checked("biobank/images.parquet", IMAGES)  # doctest: +SKIP
>>> embedding = embed(images, root=Path("biobank"), out=Path("phenotypes"), config=Config(epochs=30))  # doctest: +SKIP
>>> embedding.phenotypes.columns[:3]  # doctest: +SKIP
['participant_id', 'dim01', 'dim02']
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np
import polars as pl
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

import clinome
from clinome.core.errors import StudyError
from clinome.core.files import replacing, usable_folder, write_json
from clinome.core.progress import say, track
from clinome.core.provenance import fingerprint
from clinome.core.schema import EXCLUSIONS, IMAGES, PHENOTYPES, QUALITY, SPLITS, check
from clinome.imaging.arms import LEARN, PHENOTYPE, Arm, arms, assign, households, refuse_seen
from clinome.imaging.axes import held_out_scores, person_means, principal_axes, variance_shares
from clinome.imaging.convert import content_key, squares
from clinome.imaging.features import Views, views
from clinome.imaging.floors import WIDTHS as FLOOR_WIDTHS
from clinome.imaging.floors import floor_features
from clinome.imaging.learning import Encoder, Targets, Training, features_of, targets_of, train_encoder, transferred
from clinome.imaging.quality import quality
from clinome.imaging.reading import in_words
from clinome.imaging.stages import Stages
from clinome.stats.reliability import Estimate

UNREADABLE = "no picture that can be read"  # the reason in exclusions
_TABLES = ("splits", "exclusions", "quality", "phenotypes")
_BLOCK = 256  # pictures whose features are made at a time


@dataclass(frozen=True)
class Config:
    """What :func:`embed` does.

    Attributes
    ----------
    encoder
        What a network is taught: 'simclr', 'identity' or 'supervised' (:mod:`clinome.imaging.learning`); 'transfer' applies one
        that has learned elsewhere; 'pixels' is the floor without a network.
    network
        'small' (about 90 pixels, a laptop), 'resnet18', 'resnet50', 'inception_v3' or 'densenet121'.
    weights
        A file of weights to begin with (simclr, identity, supervised) or to apply (transfer); without one they are random.
    views
        Views of each picture whose features are averaged: 1, or 8 (four rotations, each mirrored too) with 'transfer'.
    beside_pixels
        Put the plain features beside the network's.
    training
        'outside' trains on ``outside_fraction`` of the people, who get no phenotype; 'cross-fit' on all but one of ``folds``.
    dimensions
        Axes kept, the ones along which people differ most in units of how much pictures of one person differ.
    size
        Side in pixels to which the central square of every picture is scaled.
    mirror
        Flip left eyes so that the nose is on one side in all pictures.
    epochs, batch_size, learning_rate, temperature, margin, embedding, precision
        Of the training; see :class:`clinome.imaging.learning.Training`.
    min_reliability
        Above 0, the quality table says of each axis whether its reliabilities reach it (``reliable``); none is dropped.
    seed
        Of splits, first weights, batches, augmentation and intervals. Same seed, machine and ``threads``: same bytes.
    threads
        Processor cores to use.
    """

    encoder: Literal["simclr", "identity", "supervised", "transfer", "pixels"] = "simclr"
    network: Literal["small", "resnet18", "resnet50", "inception_v3", "densenet121"] = "small"
    weights: Path | None = None
    views: Literal[1, 8] = 1
    beside_pixels: bool = True
    training: Literal["outside", "cross-fit"] = "outside"
    outside_fraction: float = 0.3
    folds: int = 2
    dimensions: int = 16
    size: int = 88
    mirror: bool = True
    epochs: int = 16
    batch_size: int = 64
    learning_rate: float = 2e-3
    temperature: float = 0.1
    margin: float = 0.4
    embedding: int = 128
    precision: Literal["float32", "bfloat16", "measure"] = "float32"
    min_reliability: float = 0.0
    seed: int = 1
    threads: int = 2

    @property
    def is_taught(self) -> bool:
        """Whether people teach the encoder, who must then be kept out of the association."""
        return self.encoder not in ("pixels", "transfer")

    def sides(self) -> dict[str, float]:
        """Return the splits to make and the share of people in each; without training nobody has to be kept out."""
        if not self.is_taught:
            return {PHENOTYPE: 1.0}
        if self.training == "outside":
            return {LEARN: self.outside_fraction, PHENOTYPE: 1 - self.outside_fraction}
        return {f"fold{k + 1}": 1 / self.folds for k in range(self.folds)}


class Embedding(NamedTuple):
    """What :func:`embed` returns and leaves in its folder as ``<name>.parquet``.

    ``phenotypes``: a row a person, a column an axis (raw, null without a usable picture or where the encoder saw the person).
    ``quality``: variance share, reliabilities, nuisance. ``splits``: who taught and who was phenotyped. ``exclusions``: people
    without a phenotype and why. ``losses``: mean loss of each epoch by encoder.
    """

    phenotypes: pl.DataFrame
    quality: pl.DataFrame
    splits: pl.DataFrame
    exclusions: pl.DataFrame
    losses: dict[str, list[float]]


class Features(NamedTuple):
    """Features of pictures: ``values`` (n_images, n_features), in blocks of ``widths`` columns that differ in unit."""

    values: NDArray[np.float32]
    widths: tuple[int, ...]


def embed(
    images: pl.DataFrame,
    *,
    root: Path,
    out: Path,
    config: Config | None = None,
    participants: pl.DataFrame | None = None,
    splits: pl.DataFrame | None = None,
    targets: pl.DataFrame | None = None,
    pictures_in: Path | None = None,
) -> Embedding:
    """Make phenotypes of everyone in ``images``; each step is found again when nothing it depends on has changed.

    Parameters
    ----------
    images
        ``core.schema.IMAGES``. Without ``laterality`` or ``visit`` pictures are taken as of a single organ, a single visit.
    root
        The folder that the column ``path`` is relative to.
    out
        Folder for ``pictures.npy``, ``set_aside.parquet`` (pictures that could not be read), ``encoder*.safetensors`` (with
        ``.json``), ``*.features.npy``, ``embedding.json``, ``timings.json`` and the tables of :class:`Embedding`.
    participants
        ``core.schema.PARTICIPANTS``: whose ``family_id`` keeps families on one side, and who else gets a row in the tables.
    splits
        ``core.schema.SPLITS``, to choose the sides yourself: 'encoder' and 'association' for ``training='outside'``, any two
        or more folds for 'cross-fit'. People it does not name are neither seen nor phenotyped.
    targets
        ``participant_id`` and a column a target: what 'supervised' learns, and 'identity' beside identities.
    pictures_in
        The folder that keeps the decoded pictures, when another call has decoded them there; ``out`` otherwise.

    Raises
    ------
    FormatError
        When not one picture can be read. One that is absent, truncated or corrupt is set aside, and its person, if it has no
        other, is excluded for it.
    CohortError
        When someone, or a family, would be phenotyped by an encoder that saw them; too few people.
    NotConverged
        When the loss stops being finite or the features do not support as many axes as asked for.
    TraitError
        When a target does not vary in the people who teach.
    StudyError
        For a setting out of range.
    """
    config = _checked(config or Config(), targets)
    images = check(images, IMAGES)
    stages = Stages(usable_folder(out))
    for name in (*(f"{table}.parquet" for table in _TABLES), "embedding.json", "timings.json"):
        (stages.folder / name).unlink(missing_ok=True)  # of a run before this one, beside which nothing of this one stands
    seconds: dict[str, float] = {}
    with _timing(seconds, "decode"):
        pixels, digest, set_aside = _decode(images, root, Stages(usable_folder(pictures_in or out)), config)
    images = images.join(set_aside, on="image_id", how="anti", maintain_order="left")
    seen = views(images)
    everyone, family = households(seen, participants)
    everyone = [*everyone, *sorted(set(set_aside["participant_id"]) - set(everyone))]
    table = assign(seen, family, fractions=config.sides(), seed=config.seed) if splits is None else check(splits, SPLITS)
    sides = arms(seen, table, taught=config.is_taught, training=config.training)
    for arm in sides:
        refuse_seen(arm, seen, family)

    key = fingerprint(clinome.__version__, digest, seen.people, seen.person.tolist(), seen.eye.tolist(), seen.visit.tolist())
    losses: dict[str, list[float]] = {arm.name: [] for arm in sides}
    features: dict[str, Features] = {}
    for arm in sides:
        with _timing(seconds, f"train {arm.name}"):
            made = _encoder(arm, pixels, seen, stages, config, key, targets)
        if config.is_taught:
            losses[arm.name] = _losses(stages.folder / f"{arm.name}.safetensors")
        with _timing(seconds, f"apply {arm.name}"):
            features[arm.name] = _features(arm, pixels, seen, stages, config, made)
    with _timing(seconds, "axes and quality"):
        phenotypes, judged = _tables(sides, features, images, seen, config)
    phenotypes = pl.DataFrame({"participant_id": everyone}).join(phenotypes, on="participant_id", how="left", maintain_order="left")
    result = Embedding(phenotypes, judged, table, _exclusions(phenotypes, seen, table, set_aside), losses)
    _write(result, stages, config, seconds)
    return result


def _checked(config: Config, targets: pl.DataFrame | None) -> Config:
    """Return ``config`` when every setting is in range and they fit together."""
    whole = {"dimensions": 1, "size": 16, "epochs": 1, "batch_size": 4, "threads": 1, "folds": 2, "embedding": 2}
    for name, least in whole.items():
        if getattr(config, name) < least:
            raise StudyError(f"{name} is out of range", got=getattr(config, name), expected=f"at least {least}")
    for name, hint in get_type_hints(Config).items():
        if get_origin(hint) is Literal and getattr(config, name) not in get_args(hint):
            expected = " or ".join(str(choice) for choice in get_args(hint))
            raise StudyError(f"{name} is not known", got=getattr(config, name), expected=expected)
    if not 0 < config.outside_fraction < 1:
        raise StudyError("outside_fraction is out of range", got=config.outside_fraction, expected="between 0 and 1")
    if not (config.learning_rate > 0 and config.temperature > 0):
        raise StudyError("learning_rate and temperature must be above 0", got=f"{config.learning_rate} and {config.temperature}")
    if config.views == 8 and config.encoder != "transfer":
        raise StudyError("eight views of a picture are for encoder 'transfer'", got=f"encoder {config.encoder!r}")
    if config.encoder == "supervised" and targets is None:
        raise StudyError("encoder 'supervised' needs targets to learn", do="name a table of people with a column a target")
    if targets is not None and config.encoder not in ("supervised", "identity"):
        raise StudyError("targets are learned by the encoders 'supervised' and 'identity'", got=f"encoder {config.encoder!r}")
    return config


# --------------------------------------------------------------------------------------------------- pictures, encoders, features


def _decode(images: pl.DataFrame, root: Path, stages: Stages, config: Config) -> tuple[NDArray[np.uint8], str, pl.DataFrame]:
    """Return the decoded squares (mapped from disk) of pictures that can be read, their digest, and those that cannot."""
    mirrored = images["laterality"].to_list() if config.mirror and "laterality" in images.columns else None
    inverted = images["inverted"].to_list() if "inverted" in images.columns else None
    key = fingerprint(clinome.__version__, content_key(images, root), images["image_id"].to_list(), mirrored, inverted, config.size)
    names = ("pictures.npy", "pictures.sha256", "set_aside.parquet")
    if not all(stages.has(name, key) for name in names):
        with stages.making("pictures.npy", key) as temporary:
            made = squares(images, root=root, path=temporary, size=config.size, mirror=config.mirror, threads=config.threads)
        with stages.making("set_aside.parquet", key) as temporary:
            made.set_aside.write_parquet(temporary)
        with stages.making("pictures.sha256", key) as temporary:
            temporary.write_text(made.digest)
        if made.set_aside.height:
            say(in_words(made.set_aside, images.height))
    array, digest, aside = (stages.folder / name for name in names)
    return np.load(array, mmap_mode="r"), digest.read_text(), pl.read_parquet(aside)


def _encoder(
    arm: Arm,
    pixels: NDArray[np.uint8],
    seen: Views,
    stages: Stages,
    config: Config,
    key: str,
    table: pl.DataFrame | None,
) -> str:
    """Make the arm's encoder unless it is there; return the key it was made with. Plain pixels need none."""
    if config.encoder == "pixels":
        return key
    name, checkpoint = f"{arm.name}.safetensors", stages.folder / f"{arm.name}.checkpoint.safetensors"
    if not config.is_taught:
        made_of = fingerprint("transfer", config.network, config.weights, config.seed, config.size)
        if not stages.has(name, made_of):
            with stages.making(name, made_of) as temporary:
                transferred(config.network, config.weights, size=config.size, seed=config.seed).save(temporary)
        return fingerprint(key, made_of)  # the network does not depend on the pictures, its features do
    taken = {field.name: getattr(config, field.name) for field in fields(Training) if hasattr(config, field.name)}
    settings = Training(**taken, objective=config.encoder)  # type: ignore[arg-type]
    targets = None if table is None else targets_of(table, seen.people, arm.learners)
    key = fingerprint(key, settings, config.weights, arm.learners.tolist(), _content(targets))
    if not stages.has(name, key):
        begun: dict[str, Any] = {"checkpoint": checkpoint, "key": key, "settings": settings, "weights": config.weights}
        made = train_encoder(pixels, seen, arm.learners, targets=targets, **begun)
        with stages.making(name, key) as temporary:
            made.save(temporary)
    checkpoint.unlink(missing_ok=True)
    return key


def _losses(path: Path) -> list[float]:
    from clinome.nn.saving import about_model

    losses: list[float] = about_model(path)["losses"]
    return losses


def _content(targets: Targets | None) -> list[str]:
    """Return digests of what people are known to be."""
    arrays = () if targets is None else (targets.numbers, targets.classes)
    return [hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest() for values in arrays]


def _features(arm: Arm, pixels: NDArray[np.uint8], seen: Views, stages: Stages, config: Config, key: str) -> Features:
    """Return the features of all pictures of the arm's people, in the order of the images table (mapped from disk)."""
    from clinome.train.devices import choose_device, reproducible

    rows = pictures_of(seen, arm.phenotyped)
    name, key = f"{arm.name}.features.npy", fingerprint("features", key, config.beside_pixels, config.views, rows.tolist())
    beside = config.beside_pixels or config.encoder == "pixels"
    widths = FLOOR_WIDTHS if beside else ()
    if not stages.has(name, key):
        model = None if config.encoder == "pixels" else Encoder.load(stages.folder / f"{arm.name}.safetensors")
        with stages.making(name, key) as temporary, reproducible(config.threads):
            if model is not None:
                model.network.to(choose_device())
            width = sum(widths) + (0 if model is None else features_of(model, pixels[:1]).shape[1])
            array = open_memmap(temporary, mode="w+", dtype=np.float32, shape=(len(rows), width))
            for start in track(range(0, len(rows), _BLOCK), "applying the encoder"):
                some = pixels[rows[start : start + _BLOCK]]
                learned = [] if model is None else [features_of(model, some, views=config.views)]
                array[start : start + _BLOCK] = np.hstack([*learned, *([floor_features(some)] if beside else [])])
            array.flush()
    found: NDArray[np.float32] = np.load(stages.folder / name, mmap_mode="r")
    learned_width = found.shape[1] - sum(widths)
    return Features(found, (learned_width, *widths) if learned_width else widths)


def pictures_of(seen: Views, people: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows of the images table that show ``people`` (rows of ``seen.people``), ascending."""
    return np.flatnonzero(np.isin(seen.person, people))


# ----------------------------------------------------------------------------------------------------------------------- tables


def _tables(
    sides: list[Arm], features: dict[str, Features], images: pl.DataFrame, seen: Views, config: Config
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return phenotypes of people with pictures, and their quality."""
    columns: dict[str, NDArray[np.float64]] = {}
    pictures: list[NDArray[np.float64]] = []
    fresh: list[NDArray[np.float64]] = []
    shares: dict[str, Estimate] = {}
    for arm in sides:
        rows, (found, widths) = pictures_of(seen, arm.phenotyped), features[arm.name]
        axes = principal_axes(found, seen.person[rows], arm.phenotyped, dimensions=config.dimensions, widths=widths)
        people = person_means(found, seen.person[rows], len(seen.people))
        names = [f"{arm.prefix}dim{j + 1:02d}" for j in range(config.dimensions)]
        values = np.full((images.height, config.dimensions), np.nan)
        values[rows] = axes.of(found)
        columns |= dict(zip(names, axes.of(people).T, strict=True))
        shares |= dict(zip(names, variance_shares(people[arm.phenotyped], axes, seed=config.seed), strict=True))
        pictures.append(values)
        judged_on = np.full_like(values, np.nan)
        judged_on[rows] = held_out_scores(found, seen.person[rows], arm.phenotyped, axes, widths=widths, seed=config.seed)
        fresh.append(judged_on)
    judged = quality(
        np.hstack(pictures),
        images,
        seen,
        traits=list(columns),
        shares=shares,
        held_out=np.hstack(fresh),
        min_reliability=config.min_reliability,
        seed=config.seed,
    )
    table = pl.DataFrame({"participant_id": seen.people, **columns}).with_columns(pl.exclude("participant_id").fill_nan(None))
    return table, judged


def _exclusions(phenotypes: pl.DataFrame, seen: Views, table: pl.DataFrame, set_aside: pl.DataFrame) -> pl.DataFrame:
    """Say of everyone without any phenotype why."""
    empty = phenotypes.filter(pl.all_horizontal(pl.exclude("participant_id").is_null()))["participant_id"]
    pictured, side = set(seen.people), dict(table.select("participant_id", "split").iter_rows())
    unreadable = set(set_aside["participant_id"])
    reasons = [
        (UNREADABLE if p in unreadable else "no picture")
        if p not in pictured
        else ("trained the encoder" if side.get(p) == LEARN else "on no side of the splits")
        for p in empty
    ]
    columns = {
        "participant_id": empty,
        "stage": pl.Series(["phenotyping"] * len(reasons), dtype=pl.String),
        "reason": pl.Series(reasons, dtype=pl.String),
    }
    return check(pl.DataFrame(columns), EXCLUSIONS)


def _write(result: Embedding, stages: Stages, config: Config, seconds: dict[str, float]) -> None:
    """Leave the tables, the settings with the losses, and the times in the folder."""
    check(result.phenotypes, PHENOTYPES)
    check(result.quality, QUALITY)
    for name in _TABLES:
        frame: pl.DataFrame = getattr(result, name)
        with replacing(stages.folder / f"{name}.parquet") as temporary:
            frame.write_parquet(temporary)
    write_json(
        stages.folder / "embedding.json",
        {"config": _plain(config), "losses": result.losses, "people": result.phenotypes.height},
    )
    write_json(stages.folder / "timings.json", seconds)


def _plain(config: Config) -> dict[str, object]:
    """Return the settings as JSON values; of a file its name, not its folder."""
    return {name: value.name if isinstance(value, Path) else value for name, value in asdict(config).items()}


@contextmanager
def _timing(seconds: dict[str, float], step: str) -> Iterator[None]:
    """Note the seconds that the block takes by the clock on the wall."""
    start = time.perf_counter()
    yield
    seconds[step] = round(time.perf_counter() - start, 3)
