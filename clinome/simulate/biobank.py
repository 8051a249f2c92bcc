"""A biobank with known truth, written as the files a real one hands out: genotypes, covariates, photographs, and the truth beside.

    DIR/genotypes.bed .bim .fam   PLINK 1, build 'simulated'
        covariates.tsv            IID, age, sex, centre, smoking, bmi, systolic_pressure
        participants.parquet      core.schema.PARTICIPANTS; ancestry is the true deme
        images.parquet, images/   core.schema.IMAGES; two eyes at two visits, PNG or JPEG
        genes.tsv                 core.schema.GENES, invented names
        true_loci.parquet         core.schema.TRUE_LOCI
        true_latents.parquet      participant_id and the six latents, in standard deviations
        provenance.json           code, machine, time
        biobank.json              the arguments; written last: where it is, the biobank is whole

Equal arguments give equal bytes (but for provenance.json), whatever the number of processes. A run that was killed goes on where
it was; a folder that holds another biobank is left as it is and answered with an error.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.errors import OutputError, StudyError
from clinome.core.files import remove_half_written, replacing, usable_folder, write_json
from clinome.core.progress import say, track
from clinome.core.provenance import write_provenance
from clinome.core.schema import IMAGES, PARTICIPANTS, TRUE_LOCI, check
from clinome.core.shards import map_shards
from clinome.formats.picture import write_picture
from clinome.formats.plink import write_plink
from clinome.formats.table import write_table
from clinome.simulate.anatomy import LATENTS, draw_latents, photographed
from clinome.simulate.covariates import CENTRES, draw_covariates, lose_some
from clinome.simulate.fundus import SCANNERS, render_fundus
from clinome.simulate.genotypes import (
    BUILD,
    People,
    Piece,
    count_alleles,
    describe_variants,
    draw_people,
    plan_pieces,
    simulate_piece,
)
from clinome.simulate.loci import Effects, make_genes, place_targets, plant, true_loci

REVISION = 3  # raised whenever equal arguments give other bytes than before
_SUFFIX = {"png": ".png", "jpeg": ".jpg"}
_PEOPLE_A_SHARD = 32
_WORK = ".simulating"


@dataclass(frozen=True)
class Options:
    """What is seldom changed.

    ``chromosomes`` 1–22; ``image_format`` 'jpeg' or 'png'; ``missing`` is the share of genotype calls, of photographs, and of
    smoking, bmi and systolic_pressure values that are not there.
    """

    chromosomes: int = 5
    image_format: str = "jpeg"
    missing: float = 0.003


@dataclass(frozen=True)
class Arguments(Options):
    """Everything that a biobank follows from; see :func:`simulate_biobank`."""

    participants: int = 4_000
    variants: int = 30_000
    seed: int = 1
    size: int = 88
    heritable: bool = True

    def __post_init__(self) -> None:
        for name, least in (("participants", 40), ("seed", 0), ("size", 32)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise StudyError(f"{name} is out of range", got=value, expected=f"a whole number, at least {least}")
        if self.image_format not in _SUFFIX:
            raise StudyError("image_format is not known", got=self.image_format, expected=" or ".join(_SUFFIX))
        if not 0 <= self.missing < 0.5:
            raise StudyError("missing is out of range", got=self.missing, expected="a share from 0 to below 0.5")


class Biobank(NamedTuple):
    """Where a simulated biobank's files are."""

    folder: Path
    genotypes: Path
    covariates: Path
    participants: Path
    images: Path
    genes: Path
    true_loci: Path
    true_latents: Path
    manifest: Path


def biobank_paths(folder: str | Path) -> Biobank:
    """Return the paths of a biobank's files in ``folder``."""
    folder = Path(folder)
    names = ("genotypes.bed", "covariates.tsv", "participants.parquet", "images.parquet", "genes.tsv")
    return Biobank(folder, *(folder / n for n in (*names, "true_loci.parquet", "true_latents.parquet", "biobank.json")))


def simulate_biobank(
    out: str | Path,
    *,
    participants: int = 4_000,
    variants: int = 30_000,
    seed: int = 1,
    size: int = 88,
    heritable: bool = True,
    options: Options | None = None,
    processes: int | None = None,
) -> Biobank:
    """Write a biobank with known truth into ``out``, or find it there.

    Parameters
    ----------
    participants, variants
        How many people (at least 40) and variants (at least 100 a chromosome).
    seed
        Any non-negative integer; everything follows from it and the other arguments.
    size
        Pixels of a side of the photographs, at least 32.
    heritable
        False plants nothing and leaves the polygenic background out: the null for calibration.
    processes
        None takes one a core for large biobanks and none but this for small ones; the files do not depend on it. Processes are
        spawned: a script that starts some calls this below ``if __name__ == "__main__":``.

    Raises
    ------
    StudyError
        For arguments out of range.
    OutputError
        When ``out`` cannot be written, or holds a biobank of other arguments or another revision of this simulation.
    """
    arguments = Arguments(
        **asdict(options or Options()), participants=participants, variants=variants, seed=seed, size=size, heritable=heritable
    )
    pieces = plan_pieces(variants, arguments.chromosomes, seed)
    paths = biobank_paths(out)
    if _is_there(paths, arguments):
        shutil.rmtree(paths.folder / _WORK, ignore_errors=True)  # of a run that was killed at its very end
        return paths
    work = _begin(paths, arguments)
    if processes is None:
        processes = (os.cpu_count() or 1) if participants > 400 else 1

    people = draw_people(participants, seed)
    grown = partial(_write_piece, folder=work, founders=people.founders)
    for _ in map_shards(grown, list(enumerate(pieces)), processes=processes, title="genealogies"):
        pass
    chromosomes = _Chromosomes(work, tuple(pieces), people, seed)
    scores = _scores(chromosomes, variants, heritable)
    say("writing genotypes")
    write_plink(
        paths.genotypes,
        samples=people.table.select("participant_id", "family_id", "sex"),
        variants=pl.concat([chromosomes.table(c) for c in chromosomes.numbers]),
        blocks=(chromosomes.called(c, arguments.missing) for c in chromosomes.numbers),
    )
    latents, centre = _write_people(paths, people, scores, arguments)
    shards = _picture_shards(paths.folder, work, people, latents, centre, arguments)
    for _ in map_shards(_photograph, shards, processes=processes, title="photographs"):
        pass
    images = pl.concat([pl.read_parquet(shard.done) for shard in shards])
    write_table(check(images, IMAGES), paths.images)
    write_provenance(paths.folder, settings=arguments, seed=seed)
    write_json(paths.manifest, {**_identity(arguments), "build": BUILD, "n_images": images.height})
    shutil.rmtree(work)
    return paths


# ------------------------------------------------------------------------------------------------ restart


def _identity(arguments: Arguments) -> dict[str, Any]:
    return {"arguments": asdict(arguments), "revision": REVISION}


def _is_there(paths: Biobank, arguments: Arguments) -> bool:
    """Say whether the whole biobank is in its folder, or raise when another one is."""
    if not paths.manifest.is_file():
        return False
    _compare(paths.folder, paths.manifest, arguments)
    return all(path.exists() for path in paths)


def _compare(folder: Path, file: Path, arguments: Arguments) -> None:
    """Raise when ``file``, a manifest, names other arguments or another revision."""
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        before = {**stored["arguments"], "revision": stored["revision"]}
    except (ValueError, KeyError, TypeError):
        before = {}
    now = {**asdict(arguments), "revision": REVISION}
    differ = sorted(name for name in now if before.get(name) != now[name])
    if differ:
        raise OutputError(
            "the folder holds a biobank that was made with other arguments",
            where=folder,
            got=", ".join(f"{name} {before.get(name)}" for name in differ),
            expected=", ".join(f"{name} {now[name]}" for name in differ),
            do="choose another folder with --out, or delete this one",
        )


def _begin(paths: Biobank, arguments: Arguments) -> Path:
    """Make the folder of unfinished work, or find the one that a killed run of the same arguments left."""
    usable_folder(paths.folder)
    work = paths.folder / _WORK
    if (work / "arguments.json").is_file():
        _compare(paths.folder, work / "arguments.json", arguments)
        remove_half_written(paths.folder)
        return work
    foreign = [path.name for path in paths[1:-1] if path.exists() and not paths.manifest.exists()]
    if foreign:
        raise OutputError(
            "the folder already holds files that this run would replace",
            where=paths.folder,
            got=", ".join(foreign),
            do="choose another folder with --out",
        )
    write_json(work / "arguments.json", _identity(arguments))
    return work


# ------------------------------------------------------------------------------------------------ genotypes


def _piece_file(folder: Path, number: int) -> Path:
    return folder / f"piece_{number:05d}.npz"


def _write_piece(numbered: tuple[int, Piece], *, folder: Path, founders: tuple[int, ...]) -> None:
    """Run one genealogy and keep its positions and packed alleles, unless they are there."""
    number, piece = numbered
    file = _piece_file(folder, number)
    if file.exists():
        return
    positions, alleles = simulate_piece(piece, founders)
    with replacing(file) as temporary:
        np.savez(temporary, positions=positions, alleles=np.packbits(alleles, axis=1))


@dataclass(frozen=True)
class _Chromosomes:
    """The simulated pieces on disk, put together chromosome by chromosome; each call gives the same again."""

    folder: Path
    pieces: tuple[Piece, ...]
    people: People
    seed: int

    @property
    def numbers(self) -> list[int]:
        return sorted({piece.chromosome for piece in self.pieces})

    def _files(self, chromosome: int) -> Iterator[Path]:
        return (_piece_file(self.folder, k) for k, piece in enumerate(self.pieces) if piece.chromosome == chromosome)

    def table(self, chromosome: int) -> pl.DataFrame:
        positions = np.concatenate([np.load(file)["positions"] for file in self._files(chromosome)])
        return describe_variants(chromosome, positions, np.random.default_rng([self.seed, 3, chromosome]))

    def counts(self, chromosome: int) -> NDArray[np.int8]:
        """Return everybody's true counts of the effect allele, shape (n_variants, n_participants)."""
        n = 2 * sum(self.people.founders)
        pieces = [np.load(file) for file in self._files(chromosome)]
        positions = np.concatenate([piece["positions"] for piece in pieces])
        alleles = np.concatenate([np.unpackbits(piece["alleles"], axis=1, count=n) for piece in pieces])
        return count_alleles(positions, alleles, self.people, np.random.default_rng([self.seed, 4, chromosome]))

    def called(self, chromosome: int, missing: float) -> NDArray[np.int8]:
        """Return the counts as an array reads them: ``missing`` of the calls are −1."""
        counts = self.counts(chromosome)
        generator = np.random.default_rng([self.seed, 5, chromosome])
        lost = generator.integers(0, counts.size, generator.binomial(counts.size, missing))
        counts.reshape(-1)[lost] = -1
        return counts


def _scores(chromosomes: _Chromosomes, variants: int, heritable: bool) -> Effects:
    """Plant loci and background on every chromosome; nothing when the biobank is not ``heritable``."""
    nobody = np.zeros((len(chromosomes.people.founder), len(LATENTS)))
    if not heritable:
        return Effects(true_loci([]), nobody, nobody)
    targets = place_targets(len(chromosomes.numbers), np.random.default_rng([chromosomes.seed, 6]))
    effects = []
    for chromosome in track(chromosomes.numbers, "planting"):
        counts = chromosomes.counts(chromosome)
        here = [target for target in targets if target.chromosome == chromosome]
        generator = np.random.default_rng([chromosomes.seed, 7, chromosome])
        effects.append(plant(chromosomes.table(chromosome), counts, here, len(counts) / variants, generator))
    planted, background = (np.sum([e[k] for e in effects], axis=0) for k in (1, 2))
    return Effects(pl.concat([e.loci for e in effects]), planted, background)


# ------------------------------------------------------------------------------------------------ people and pictures


def _write_people(
    paths: Biobank, people: People, scores: Effects, arguments: Arguments
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Write covariates, participants, truth and genes; return the latents (n, 6) and the centre (n,) of each person."""
    table, seed = people.table, arguments.seed
    covariates = draw_covariates(table["deme"].to_numpy(), table["sex"].to_numpy(), np.random.default_rng([seed, 8]))
    planted_share = np.array([scores.loci.filter(pl.col("latent") == k)["variance_explained"].sum() for k in LATENTS])
    latents = draw_latents(
        covariates.with_columns(table["deme"]), scores.planted, scores.background, planted_share, np.random.default_rng([seed, 9])
    )
    given = lose_some(covariates, arguments.missing, np.random.default_rng([seed, 10]))
    write_table(given.select(table["participant_id"].alias("IID"), *given.columns), paths.covariates)
    participants = table.select("participant_id", "sex", "family_id", covariates["centre"].alias("site"), ancestry="deme")
    write_table(check(participants, PARTICIPANTS), paths.participants)
    write_table(check(scores.loci, TRUE_LOCI), paths.true_loci)
    truth = table.select("participant_id").with_columns(pl.Series(k, latents[:, i]) for i, k in enumerate(LATENTS))
    write_table(truth, paths.true_latents)
    write_table(make_genes(scores.loci, arguments.chromosomes, np.random.default_rng([seed, 11])), paths.genes)
    centre = covariates["centre"].replace_strict({name: k for k, name in enumerate(CENTRES)}, return_dtype=pl.Int64)
    return latents, centre.to_numpy()


@dataclass(frozen=True)
class _Shard:
    """Some people to be photographed; ``done`` is the table of their pictures, written when all are on disk."""

    folder: Path
    done: Path
    number: int
    participants: tuple[str, ...]
    latents: NDArray[np.float64]
    centre: NDArray[np.int64]
    arguments: Arguments


def _picture_shards(
    folder: Path, work: Path, people: People, latents: NDArray[np.float64], centre: NDArray[np.int64], arguments: Arguments
) -> list[_Shard]:
    names = people.table["participant_id"].to_list()
    shards = []
    for number, start in enumerate(range(0, len(names), _PEOPLE_A_SHARD)):
        rows = slice(start, start + _PEOPLE_A_SHARD)
        done = work / f"pictures_{number:05d}.parquet"
        shards.append(_Shard(folder, done, number, tuple(names[rows]), latents[rows], centre[rows], arguments))
    return shards


def _photograph(shard: _Shard) -> None:
    """Take and write one shard's pictures, unless they are there."""
    if shard.done.exists():
        return
    arguments = shard.arguments
    generator = np.random.default_rng([arguments.seed, 12, shard.number])
    eyes = photographed(shard.latents, shard.centre, generator)
    pictures = render_fundus(eyes, size=arguments.size, generator=generator)
    taken = np.flatnonzero(generator.random(len(eyes)) >= arguments.missing)
    views = [(person, side, visit) for person in range(len(shard.participants)) for side in ("left", "right") for visit in (0, 1)]
    rows = []
    for k in taken:
        person, side, visit = views[k]
        name = f"{shard.participants[person]}_{side}_{visit}"
        path = f"images/{shard.number:04d}/{name}{_SUFFIX[arguments.image_format]}"
        write_picture(shard.folder / path, pictures[k])
        rows.append(
            {
                "image_id": name,
                "participant_id": shard.participants[person],
                "path": path,
                "laterality": side,
                "visit": visit,
                "modality": "fundus photograph",
                "site": CENTRES[shard.centre[person]],
                "scanner": SCANNERS[eyes.scanner[k]],
                "illumination": round(float(eyes.illumination[k]), 4),
                "blur": round(float(eyes.blur[k]), 5),
            }
        )
    write_table(pl.DataFrame(rows), shard.done)
