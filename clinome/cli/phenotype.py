"""`clinome phenotype`: pictures to phenotypes."""

from pathlib import Path
from typing import Annotated

import typer


def phenotype(
    images: Annotated[
        Path,
        typer.Option(
            help="Table of pictures (.parquet, .csv, .tsv): image_id, participant_id, path, and laterality, visit, scanner, …",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write into; made when it is not there.", show_default=False)],
    participants: Annotated[
        Path | None, typer.Option(help="Table of people (.parquet, .csv, .tsv) whose family_id keeps families on one side.")
    ] = None,
    dimensions: Annotated[int, typer.Option(help="How many traits to make.")] = 16,
    training: Annotated[
        str, typer.Option(help="outside: teach on people who get no phenotype; cross-fit: fold by fold, traits named foldN.dimNN.")
    ] = "outside",
    outside_fraction: Annotated[float, typer.Option(help="Share of the people who teach the encoder (outside).")] = 0.3,
    encoder: Annotated[
        str,
        typer.Option(
            help="simclr, identity or supervised: a network taught here; transfer: one taught elsewhere; pixels: the floor, none."
        ),
    ] = "simclr",
    network: Annotated[str, typer.Option(help="small (laptop), resnet18, resnet50, inception_v3 or densenet121.")] = "small",
    weights: Annotated[Path | None, typer.Option(help="File of weights to begin with, or to apply (transfer).")] = None,
    targets: Annotated[
        Path | None, typer.Option(help="Table of people with a column a target (supervised; beside identities, identity).")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="How often the network sees every person; the default suits a few thousand.")
    ] = None,
    size: Annotated[int, typer.Option(help="Side in pixels to which pictures are scaled.")] = 88,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal results on the same machine.")] = 1,
    threads: Annotated[int, typer.Option(help="Processor cores to use.")] = 2,
) -> None:
    """Make phenotypes of people from their pictures, with the quality of each.

    Families stay on one side of the encoder when --participants names them.

    Example:

        clinome phenotype --images biobank/images.parquet --participants biobank/participants.parquet --out phenotypes
    """
    from dataclasses import replace

    import polars as pl

    from clinome.core.schema import IMAGES
    from clinome.formats.table import read_checked, read_table
    from clinome.imaging.embedding import Config, embed

    config = Config(encoder, network, weights, training=training, outside_fraction=outside_fraction, dimensions=dimensions)  # type: ignore[arg-type]
    config = replace(config, size=size, seed=seed, threads=threads, epochs=config.epochs if epochs is None else epochs)
    learned = None if targets is None else read_table(targets).frame
    people = None if participants is None else read_table(participants).frame.select(pl.col("^(participant_id|family_id)$"))
    made = embed(read_checked(images, IMAGES), root=images.parent, out=out, config=config, participants=people, targets=learned)
    n_people, n_traits = made.phenotypes.height - made.exclusions.height, made.phenotypes.width - 1
    typer.echo(f"{n_people} people, {n_traits} traits: {out / 'phenotypes.parquet'}")
    for reason, count in made.exclusions.group_by("reason").len().sort("reason").iter_rows():
        typer.echo(f"  without a phenotype: {count} ({reason})")
    agreement = made.quality.filter(pl.col("measure") == "test_retest_icc")["value"].drop_nulls().to_numpy()
    if len(agreement):
        typer.echo(
            f"  agreement between visits (ICC): {agreement.min():.2f} to {agreement.max():.2f}; see {out / 'quality.parquet'}"
        )
