"""Features and augmented batches beside the bare work they hold, and beside torch's DataLoader with Pillow, and MONAI.

    .venv/bin/python benchmarks/imaging_throughput.py extraction    # bar: ≥ 90 % of the bare forward pass of a ResNet-50
    .venv/bin/python benchmarks/imaging_throughput.py loading       # bar: ≥ 70 % of decode + one resample
    .venv/bin/python benchmarks/imaging_throughput.py memory        # bar: peak memory flat from N to 4 N pictures

Figures are processor milliseconds a picture, all processes and threads counted, on one core: other work on the machine spoils wall
times, and neither side has two cores wait for each other (extraction gives each core batches of its own, so two cores do twice as
much; wall times with two workers stand beside). Rivals take turns, and the middle of several rounds is taken. The records go to
benchmarks/results/imaging_<part>.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from clinome.core.files import write_json
from clinome.core.provenance import provenance
from clinome.imaging.extraction import extract
from clinome.imaging.geometry import Spread, draw_geometry
from clinome.imaging.intensity import Change, imagenet
from clinome.imaging.loading import Augmentation, Read, Sample, decode_once, fetching, pictures
from clinome.imaging.resample import resample
from clinome.train.batches import Drawn, ahead

RESULTS = Path(__file__).parent / "results"
KINDS = {"JPEG 512": ("jpg", 512), "JPEG 1024": ("jpg", 1024), "PNG 512": ("png", 512), "PNG 1024": ("png", 1024)}
SIDE, BATCH, ROUNDS = 224, 16, 3
SPREAD = Spread(rotation_degrees=15, scale=0.1, shift=0.05, elastic_mm=3, elastic_grid_mm=32, mirror=(1,))
CHANGE = Change(brightness=0.2, contrast=0.2, gamma=0.2)
SPREAD_3D = Spread(rotation_degrees=15, scale=0.1, elastic_mm=2, elastic_grid_mm=16, mirror=(2,))
NOTE = "processor milliseconds a picture; a share is that of the bare work in what was taken"


def photographs(folder: Path, n: int, suffix: str, size: int) -> pl.DataFrame:
    """Write ``n`` drawn fundus photographs with the noise of a sensor, and return their table."""
    from PIL import Image

    from clinome.simulate.fundus import average_eyes, render_fundus

    generator = np.random.default_rng(size)
    clean = [render_fundus(average_eyes(1, generator), size=size, generator=generator)[0] for _ in range(4)]
    names = [f"{k:05d}.{suffix}" for k in range(n)]
    folder.mkdir(parents=True, exist_ok=True)
    for k, name in enumerate(names):
        pixels = np.clip(clean[k % 4] + generator.normal(0, 2, (size, size, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name, **({"quality": 90} if suffix == "jpg" else {}))
    return pl.DataFrame({"path": names})


def processor_seconds() -> float:
    """Return what this process and its ended children have used."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def in_turns(rivals: dict[str, Callable[[], Any]], n: int, rounds: int = ROUNDS) -> dict[str, float]:
    """Return the median processor milliseconds for each of ``n`` pictures of each rival, run in turns."""
    taken: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, run in rivals.items():
            start = processor_seconds()
            run()
            taken[name].append(1000 * (processor_seconds() - start) / n)
    return {name: round(statistics.median(times), 3) for name, times in taken.items()}


# --------------------------------------------------------------------------------------------------------------------- extraction


def extraction(folder: Path) -> dict[str, Any]:
    """Bare forward pass of a ResNet-50, our extraction, and a DataLoader with Pillow in front of the same forward pass."""
    import torch

    from clinome.imaging.models import resnet
    from clinome.nn.weights import IMAGENET
    from clinome.train.devices import Mode, arrange, low_precision

    torch.set_num_threads(1)
    torch.manual_seed(1)
    network = resnet.Model(resnet.Config(layers=50, outputs=0)).eval()
    own = copy.deepcopy(network)  # ours lays out its weights each call; those of the bare pass stay as they are
    n = 4 * BATCH
    record: dict[str, Any] = {"network": "ResNet-50", "side": SIDE, "batch": BATCH, "pictures": n}
    for precision in ("bfloat16", "float32"):
        mode = Mode(bfloat16=precision == "bfloat16", channels_last=True)
        noise = torch.randn(BATCH, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)

        def forward(x: Any, mode: Mode = mode) -> Any:
            arrange(network, mode)
            with torch.inference_mode(), low_precision(network, mode.bfloat16):
                return network(x)

        def bare(x: Any = noise, run: Callable[[Any], Any] = forward) -> None:
            for _ in range(n // BATCH):
                run(x)

        forward(noise)
        for kind, (suffix, size) in KINDS.items():
            where = folder / kind.replace(" ", "")
            table = pl.DataFrame({"path": sorted(p.name for p in where.glob(f"*.{suffix}"))[:n]})
            if table.height < n:
                table = photographs(where, n, suffix, size)
            table = pl.concat([table, table[:BATCH]])
            read = pictures(table, root=where, side=SIDE, gap=1)

            def ours(count: int, read: Read = read, precision: Any = precision) -> None:
                settings: dict[str, Any] = {"preprocessing": IMAGENET, "batch_size": BATCH, "precision": precision, "threads": 1}
                with tempfile.TemporaryDirectory() as out:
                    extract(own, read, count, out=Path(out), key="", **settings)

            def decode(read: Read = read) -> None:
                for row in range(n):
                    read(row)

            rivals = {
                "bare forward": bare,
                "ours and a batch more": lambda ours=ours: ours(n + BATCH),
                "ours, one batch": lambda ours=ours: ours(BATCH),
                "decode alone": decode,
                "DataLoader + Pillow": lambda where=where, table=table[:n], run=forward: _dataloader(where, table, run),
            }
            figures = in_turns(rivals, n, ROUNDS if precision == "bfloat16" else 1)
            start = figures.pop("ours, one batch")  # hashing the weights, learning the width: once a call
            figures["ours"] = round(figures.pop("ours and a batch more") - start, 3)
            figures["ours: seconds once a call"] = round((start * n - figures["ours"] * BATCH) / 1000, 3)
            figures["share"] = round(figures["bare forward"] / figures["ours"], 3)
            figures["share of the DataLoader"] = round(figures["bare forward"] / figures["DataLoader + Pillow"], 3)
            limit = figures["bare forward"] / (figures["bare forward"] + figures["decode alone"])
            figures["limit: forward / (forward + decode)"] = round(limit, 3)
            record[f"{kind}, {precision}"] = figures
            print(kind, precision, json.dumps(figures), flush=True)
    record["wall, two workers"] = _two_workers(folder, network)
    return record


def _dataloader(where: Path, table: pl.DataFrame, forward: Callable[[Any], Any]) -> None:
    """What one writes without us: every picture decoded whole, scaled, standardised, collated, applied."""
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    mean, std = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]

    class Photographs(Dataset[Any]):
        def __len__(self) -> int:
            return table.height

        def __getitem__(self, row: int) -> Any:
            picture = Image.open(where / table["path"][row]).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            return (torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255 - mean) / std

    for batch in DataLoader(Photographs(), batch_size=BATCH):
        forward(batch.contiguous(memory_format=torch.channels_last))


def _two_workers(folder: Path, network: Any) -> dict[str, Any]:
    """Wall milliseconds a picture with two workers, beside two threads that only pass forward; the load of the machine with it."""
    from concurrent.futures import ThreadPoolExecutor

    import torch

    from clinome.nn.weights import IMAGENET
    from clinome.train.devices import Mode, arrange, low_precision

    where, n = folder / "JPEG512", 4 * BATCH
    table = pl.DataFrame({"path": sorted(p.name for p in where.glob("*.jpg"))[:n]})
    noise = torch.randn(BATCH, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    arrange(network, Mode(True, True))

    def forward(_: int) -> None:
        with torch.inference_mode():
            network(noise)

    read, own = pictures(pl.concat([table] * 2), root=where, side=SIDE, gap=1), copy.deepcopy(network)
    settings: dict[str, Any] = {"preprocessing": IMAGENET, "batch_size": BATCH, "precision": "bfloat16", "threads": 2}
    taken: dict[str, list[float]] = {"bare forward": [], "ours": []}
    for _ in range(ROUNDS):
        start = time.perf_counter()
        with low_precision(network), ThreadPoolExecutor(2) as pool:
            list(pool.map(forward, range(n // BATCH)))
        taken["bare forward"].append(time.perf_counter() - start)
        seconds = []
        for count in (2 * BATCH, n + 2 * BATCH):
            start = time.perf_counter()
            with tempfile.TemporaryDirectory() as out:
                extract(own, read, count, out=Path(out), key="", **settings)
            seconds.append(time.perf_counter() - start)
        taken["ours"].append(seconds[1] - seconds[0])
    figures: dict[str, Any] = {name: round(1000 * statistics.median(times) / n, 3) for name, times in taken.items()}
    return {**figures, "share": round(figures["bare forward"] / figures["ours"], 3), "load average": round(os.getloadavg()[0], 2)}


# ------------------------------------------------------------------------------------------------------------------------ loading


def loading(folder: Path) -> dict[str, Any]:
    """Decode + one resample; our augmented batches, streamed and kept; a DataLoader and MONAI doing the same."""
    import torch

    torch.set_num_threads(1)
    n = 4 * BATCH
    record: dict[str, Any] = {"out": [SIDE, SIDE], "batch": BATCH, "pictures": n}
    for kind in ("JPEG 512", "JPEG 1024", "PNG 512"):
        suffix, size = KINDS[kind]
        where = folder / kind.replace(" ", "")
        table = pl.DataFrame({"path": sorted(p.name for p in where.glob(f"*.{suffix}"))[:n]})
        if table.height < n:
            table = photographs(where, n, suffix, size)
        record[kind] = _loading_2d(where, table, where / "kept")
        print(kind, json.dumps(record[kind]), flush=True)
    record["volumes 96 × 112 × 96"] = _loading_3d(folder / "volumes", folder / "kept3d")
    print("volumes", json.dumps(record["volumes 96 × 112 × 96"]), flush=True)
    return record


def _batches(samples: Any, make: Augmentation, n: int, batch: int = BATCH) -> Callable[[], None]:
    fetch = fetching(samples, make, seed=1)

    def run() -> None:
        for _ in ahead(lambda step: Drawn(0, np.arange(step * batch, (step + 1) * batch)), fetch, 0, n // batch):
            pass

    return run


def _loading_2d(where: Path, table: pl.DataFrame, kept_in: Path) -> dict[str, float]:
    n = table.height
    read = pictures(table, root=where, side=256)
    shape = (SIDE, SIDE)
    turned = draw_geometry(np.random.default_rng(1), Spread(rotation_degrees=15, scale=0.1), 2)
    everything = Augmentation(shape, spread=SPREAD, change=CHANGE, normalise=imagenet)
    moved = Augmentation(shape, spread=SPREAD, normalise=imagenet)
    kept = decode_once(read, n, folder=kept_in, key="benchmark")

    def least() -> None:
        for row in range(n):
            resample(read(row).values, turned, shape=shape)

    rivals = {
        "decode + one resample": least,
        "ours, streamed": _batches(read, everything, n),
        "ours, streamed, without changes of value": _batches(read, moved, n),
        "ours, kept": _batches(kept, everything, n),
        **_peers_2d(where, table),
    }
    figures = in_turns(rivals, n)
    for name in [name for name in figures if name != "decode + one resample"]:
        figures[f"share: {name}"] = round(figures["decode + one resample"] / figures[name], 3)
    return figures


def _peers_2d(where: Path, table: pl.DataFrame) -> dict[str, Callable[[], Any]]:
    """MONAI's transforms over the same files: affine and elastic in one (Rand2DElastic), gamma, contrast, scaling."""
    from monai.data import CacheDataset
    from monai.data import Dataset as Plain
    from monai.transforms import (
        Compose,
        LoadImage,
        NormalizeIntensity,
        Rand2DElastic,
        RandAdjustContrast,
        RandFlip,
        RandScaleIntensity,
        Resize,
        Transpose,
    )
    from torch.utils.data import DataLoader

    files = [str(where / name) for name in table["path"]]
    load = [LoadImage(reader="PILReader", image_only=True), Transpose((2, 1, 0)), Resize((256, 256), anti_aliasing=True)]
    change = [
        Rand2DElastic(
            (32, 32), (2, 4), prob=1, rotate_range=0.26, scale_range=0.1, spatial_size=(SIDE, SIDE), padding_mode="zeros"
        ),
        RandFlip(0.5, spatial_axis=1),
        NormalizeIntensity(subtrahend=[123.7, 116.3, 103.5], divisor=[58.4, 57.1, 57.4], channel_wise=True),
        RandScaleIntensity(0.2, prob=1),
        RandAdjustContrast(prob=1, gamma=(0.8, 1.2)),
    ]
    kept = CacheDataset(files, Compose([*load, *change]), progress=False, num_workers=1)

    def through(dataset: Any) -> Callable[[], None]:
        def run() -> None:
            for _ in DataLoader(dataset, batch_size=BATCH):
                pass

        return run

    return {"MONAI Dataset": through(Plain(files, Compose([*load, *change]))), "MONAI CacheDataset": through(kept)}


def _loading_3d(where: Path, kept_in: Path) -> dict[str, float]:
    """NIfTI volumes of 16 bits with labels, patches of 64³."""
    import nibabel
    from monai.data import CacheDataset, DataLoader
    from monai.data import Dataset as Plain
    from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, NormalizeIntensityd, Rand3DElasticd, RandFlipd

    n, sides, patch = 8, (96, 112, 96), (64, 64, 64)
    where.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(1)
    for k in range(n):
        for name, values in (("i", generator.integers(0, 1000, sides)), ("l", generator.integers(0, 3, sides))):
            nibabel.save(nibabel.Nifti1Image(values.astype(np.int16), np.eye(4)), where / f"{name}{k}.nii.gz")

    def read(row: int) -> Sample:
        image, labels = (np.asarray(nibabel.load(where / f"{name}{row}.nii.gz").dataobj).T[None] for name in "il")
        return Sample(image, labels.astype(np.uint8), np.ones(3))

    turned = draw_geometry(generator, Spread(rotation_degrees=15), 3)

    def least() -> None:
        for row in range(n):
            sample = read(row)
            resample(sample.values, turned, shape=patch)
            assert sample.labels is not None
            resample(sample.labels, turned, shape=patch, order=0)

    make = Augmentation(patch, spread=SPREAD_3D, change=Change(gamma=0.2))
    keys, pair = (
        ["image", "label"],
        [{"image": str(where / f"i{k}.nii.gz"), "label": str(where / f"l{k}.nii.gz")} for k in range(n)],
    )
    angles = (0.26, 0.26, 0.26)
    transform = Compose(
        [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            Rand3DElasticd(
                keys,
                (4, 6),
                (20, 60),
                prob=1,
                rotate_range=angles,
                scale_range=0.1,
                spatial_size=patch,
                mode=["bilinear", "nearest"],
                padding_mode="zeros",
            ),
            RandFlipd(keys, 0.5, spatial_axis=2),
            NormalizeIntensityd(["image"]),
        ]
    )
    kept = decode_once(read, n, folder=kept_in, key="benchmark")
    cached = CacheDataset(pair, transform, progress=False, num_workers=1)

    def through(dataset: Any) -> Callable[[], None]:
        def run() -> None:
            for _ in DataLoader(dataset, batch_size=2):
                pass

        return run

    rivals = {
        "decode + one resample": least,
        "ours, streamed": _batches(read, make, n, 2),
        "ours, kept": _batches(kept, make, n, 2),
        "MONAI Dataset": through(Plain(pair, transform)),
        "MONAI CacheDataset": through(cached),
    }
    figures = in_turns(rivals, n, 2)
    for name in [name for name in figures if name != "decode + one resample"]:
        figures[f"share: {name}"] = round(figures["decode + one resample"] / figures[name], 3)
    return figures


# ------------------------------------------------------------------------------------------------------------------------- memory


def memory(folder: Path) -> dict[str, Any]:
    """Peak memory of a process that extracts, or that keeps and loads, N and 4 N pictures."""
    from measuring import run

    record: dict[str, Any] = {}
    where = folder / "JPEG512"
    if not where.is_dir():
        photographs(where, 64, "jpg", 512)
    for what in ("extract", "load", "monai"):
        peaks = {}
        for n in (400, 1600):
            with tempfile.TemporaryDirectory(dir=folder) as out:
                cost = run(sys.executable, __file__, f"_{what}", str(where), out, str(n))
            peaks[f"{n} pictures"] = cost.peak_mib
        record[{"extract": "features", "load": "kept and augmented", "monai": "MONAI CacheDataset"}[what]] = peaks
        print(what, peaks, flush=True)
    return record


def _repeated(where: Path, n: int) -> pl.DataFrame:
    names = sorted(p.name for p in where.glob("*.jpg"))
    return pl.DataFrame({"path": [names[k % len(names)] for k in range(n)]})


def _extract(where: Path, out: Path, n: int) -> None:
    from torch import nn

    small = nn.Sequential(nn.Conv2d(3, 8, 7, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(8), nn.Flatten())
    read = pictures(_repeated(where, n), root=where, side=SIDE, gap=1)
    extract(small, read, n, out=out, key="", batch_size=BATCH, precision="float32", threads=1)


def _load(where: Path, out: Path, n: int) -> None:
    read = pictures(_repeated(where, n), root=where, side=256, gap=1)
    kept = decode_once(read, n, folder=out, threads=1)
    _batches(kept, Augmentation((SIDE, SIDE), spread=SPREAD, normalise=imagenet), n)()


def _monai(where: Path, out: Path, n: int) -> None:
    from monai.data import CacheDataset
    from monai.transforms import Compose, LoadImage, Resize, Transpose

    files = [str(where / name) for name in _repeated(where, n)["path"]]
    load = [LoadImage(reader="PILReader", image_only=True), Transpose((2, 1, 0)), Resize((256, 256))]
    for _ in CacheDataset(files, Compose(load), progress=False, num_workers=1):
        pass


PARTS = {"extraction": extraction, "loading": loading, "memory": memory}
_MEASURED = {"_extract": _extract, "_load": _load, "_monai": _monai}  # what `memory` runs in processes of their own


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in _MEASURED:
        _MEASURED[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
        raise SystemExit
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("folder", type=Path, nargs="?", help="where pictures are drawn, and found again; by default a new one")
    asked = parser.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    made = PARTS[asked.part](folder)
    load = round(os.getloadavg()[0], 2)
    write_json(RESULTS / f"imaging_{asked.part}.json", {"note": NOTE, **made, "load average": load, "provenance": provenance()})
