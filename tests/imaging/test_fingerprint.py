from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from clinome.imaging.fingerprint import DETAIL_BITS, Fingerprint, find_duplicates, fingerprint_of


def texture(seed: int, side: tuple[int, int] = (150, 200)) -> np.ndarray:
    """A picture with the 1/f spectrum of natural ones, 0–255."""
    generator = np.random.default_rng(seed)
    down, across = np.fft.fftfreq(side[0])[:, None], np.fft.fftfreq(side[1])[None]
    falling = 1.0 / np.maximum(np.hypot(down, across), 1.0 / max(side))
    grey = np.fft.ifft2(np.fft.fft2(generator.normal(size=side)) * falling).real
    return np.asarray((grey - grey.min()) / np.ptp(grey) * 255).astype(np.uint8)


def copies(grey: np.ndarray) -> dict[str, np.ndarray]:
    picture, buffer = Image.fromarray(grey), io.BytesIO()
    picture.save(buffer, "JPEG", quality=60)
    return {
        "re-encoded": np.asarray(Image.open(buffer)),
        "rescaled": np.asarray(picture.resize((int(picture.width * 0.6), int(picture.height * 0.6)), Image.Resampling.BILINEAR)),
        "brighter": np.clip(grey * 1.1 + 8, 0, 255).astype(np.uint8),
        "noisy": np.clip(grey + np.random.default_rng(0).normal(0, 3, grey.shape), 0, 255).astype(np.uint8),
        "16 bits": grey.astype(np.uint16) * 257,
    }


def apart(one: str | None, other: str | None) -> int:
    assert one
    assert other
    return (int(one, 16) ^ int(other, 16)).bit_count()


def test_copies_are_near_and_others_are_not() -> None:
    pictures = [texture(seed) for seed in range(20)]
    own = [fingerprint_of(picture[None]) for picture in pictures]
    for picture, print_of in zip(pictures, own, strict=True):
        for name, copy in copies(picture).items():
            found = fingerprint_of(copy[None])
            assert apart(found.fingerprint, print_of.fingerprint) <= 6, name
            assert apart(found.fingerprint_detail, print_of.fingerprint_detail) <= 0.06 * DETAIL_BITS, name
            assert found.content_sha256 != print_of.content_sha256, name
    for i in range(20):
        for j in range(i):
            assert apart(own[i].fingerprint, own[j].fingerprint) > 10
            assert apart(own[i].fingerprint_detail, own[j].fingerprint_detail) > 0.3 * DETAIL_BITS


def test_content_is_of_values_type_and_shape_not_of_memory() -> None:
    values = np.arange(24, dtype=np.int16).reshape(1, 4, 6)
    one = fingerprint_of(values).content_sha256
    assert one == hashlib.sha256(b"<i2(1, 4, 6)" + values.tobytes()).hexdigest()
    assert fingerprint_of(np.asfortranarray(values)).content_sha256 == one
    assert fingerprint_of(values.astype(">i2")).content_sha256 == one
    assert fingerprint_of(values[:, ::-1][:, ::-1]).content_sha256 == one
    assert fingerprint_of(values.astype(np.int32)).content_sha256 != one
    assert fingerprint_of(values.reshape(1, 6, 4)).content_sha256 != one


@pytest.mark.parametrize("values", [np.zeros((1, 9, 9)), np.full((3, 9, 9), 7.0), np.full((1, 9, 9), np.nan), np.zeros((1, 0, 5))])
def test_a_picture_without_looks_has_no_fingerprint(values: np.ndarray) -> None:
    found = fingerprint_of(values)
    assert found.fingerprint is None
    assert found.fingerprint_detail is None
    assert len(found.content_sha256) == 64


def test_a_volume_is_seen_through_its_middle() -> None:
    volume = np.stack([texture(seed, (60, 60)) for seed in range(9)])[None]
    thick = np.repeat(volume, 2, axis=1)
    assert fingerprint_of(volume).fingerprint == fingerprint_of(thick).fingerprint
    volume[0, 0] = 0
    assert fingerprint_of(volume).fingerprint == fingerprint_of(thick).fingerprint


def table(prints: list[Fingerprint]) -> pl.DataFrame:
    rows = [(str(k), *found) for k, found in enumerate(prints)]
    names = ["image_id", "content_sha256", "fingerprint", "fingerprint_detail"]
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")


def test_duplicates_of_a_table() -> None:
    one, two = texture(1), texture(2)
    pictures = [one, two, one, copies(one)["re-encoded"], np.zeros((9, 9)), np.zeros((9, 9)), copies(two)["brighter"]]
    images = table([fingerprint_of(picture[None]) for picture in pictures])
    found = find_duplicates(images)
    assert found.select("image_id", "duplicate_of", "kind").rows() == [
        ("2", "0", "exact"),
        ("3", "0", "near"),
        ("5", "4", "exact"),
        ("6", "1", "near"),
    ]
    assert found["share_of_bits"].max() < 0.06
    assert find_duplicates(images.drop("fingerprint_detail")).height == 4
    assert find_duplicates(images.head(0)).height == 0


def test_a_hundred_thousand_pictures_take_seconds() -> None:
    generator = np.random.default_rng(5)
    n = 100_000
    near, detail = generator.bytes(8 * n).hex(), generator.integers(0, 1 << 62, (n, 8), dtype=np.uint64)
    rows = [f"{k}" for k in range(n)]
    codes = [near[16 * k : 16 * k + 16] for k in range(n)]
    codes[70_000] = f"{int(codes[3], 16) ^ 0b10011:016x}"
    detail[70_000] = detail[3] ^ np.uint64(5)
    images = pl.DataFrame(
        {"image_id": rows, "content_sha256": rows, "fingerprint": codes, "fingerprint_detail": [d.tobytes().hex() for d in detail]}
    )
    found = find_duplicates(images)
    assert found.rows() == [("70000", "3", "near", 16 / 512)]


@pytest.mark.slow
def test_registered_heads_of_different_people_are_not_taken_for_copies(real_data: Callable[[str], Path]) -> None:
    """196 people a plane; every picture and a JPEG of quality 60 of it are told from everybody else's."""
    with tarfile.open(real_data("oasis1-slices") / "slices.tar") as archive:
        files = [member for member in archive.getmembers() if member.isfile() and member.name.startswith(("axial", "sagittal"))]
        pictures = [np.asarray(Image.open(io.BytesIO(archive.extractfile(file).read())).convert("L")) for file in files]
    again = [copies(picture)["re-encoded"] for picture in pictures[::10]]
    found = find_duplicates(table([fingerprint_of(picture[None]) for picture in (*pictures, *again)]))
    expected = [(str(len(pictures) + k), str(10 * k)) for k in range(len(again))]
    assert found.select("image_id", "duplicate_of").rows() == expected
