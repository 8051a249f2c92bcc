"""Two hashes of a picture: of its very values, and of how it looks, which survives re-encoding, rescaling and a little light.

``fingerprint`` (64 bits) is for searching: copies differ in a few bits. Scans of one organ in one pose look so alike that different
people may do so too (of pairs of sagittal OASIS-1 slices, registered heads of different people, one in eight lies within six bits);
``fingerprint_detail`` (512 bits) then tells copies from relatives in looks: copies of pictures of at least 100 pixels a side
differ in at most 5 % of its bits, different people's slices in at least 18 %, photographs of different eyes in at least 8 %.
Pictures smaller than some 64 pixels hold too little detail for it: of those only copies without loss are found for sure. A crop of
2 % of the side is another picture by both.

Both hashes are signs of low frequencies of a cosine transform, which are the same whatever the size of the picture and do not
change with its brightness and contrast.

References
----------
Zauner C. Implementation and benchmarking of perceptual image hash functions. Thesis, Hagenberg (2010): hashes by the signs and
ranks of cosine coefficients.

>>> picture = np.add.outer(np.arange(80.0), np.arange(120.0) ** 1.5)[None]
>>> one, other = fingerprint_of(picture), fingerprint_of(picture * 0.9 + 5.0)
>>> one.fingerprint == other.fingerprint, one.content_sha256 == other.content_sha256
(True, False)
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.cohort.copies import near_pairs
from clinome.core.errors import need
from clinome.core.schema import DUPLICATES, check

BITS, DETAIL_BITS = 64, 512
_SIDE = 64  # pixels to which a picture is scaled
_DIAGONALS = sorted((a + b, a, b) for a in range(_SIDE) for b in range(_SIDE))  # frequencies, low ones first
_SEARCHED, _DETAILED = _DIAGONALS[21 : 21 + BITS], _DIAGONALS[36 : 36 + DETAIL_BITS]


class Fingerprint(NamedTuple):
    """``content_sha256`` of type, shape and values; ``fingerprint`` (16) and ``fingerprint_detail`` (128 hexadecimal digits) of the
    looks, None for a picture without any (one value, or values that are not finite).
    """

    content_sha256: str
    fingerprint: str | None
    fingerprint_detail: str | None


def fingerprint_of(values: NDArray[Any]) -> Fingerprint:
    """Hash a picture or a volume, shape (channels, [depth,] height, width) as in ``Scan.values``.

    The looks of a volume are those of the middle third of its depth, averaged; of several channels, those of their mean.
    """
    exact = content_of(values)
    grey = values.astype(np.float32).mean(axis=0) if values.size else np.zeros((1, 1), np.float32)
    if grey.ndim == 3:
        third = len(grey) // 3
        grey = grey[third : len(grey) - third].mean(axis=0)
    if not np.isfinite(grey).all() or grey.max() == grey.min():
        return Fingerprint(exact, None, None)
    waves = _waves(grey)
    return Fingerprint(exact, _signs(waves, _SEARCHED), _signs(waves, _DETAILED))


def content_of(values: NDArray[Any]) -> str:
    """Return the SHA-256 of a picture's type, shape and values, whatever the order of its bytes and axes in memory."""
    content = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    exact = hashlib.sha256(f"{content.dtype.str}{content.shape}".encode())
    exact.update(content.data if content.size else b"")
    return exact.hexdigest()


def find_duplicates(images: pl.DataFrame, *, max_distance: int = 6, max_detail: float = 0.06) -> pl.DataFrame:
    """Find pictures that are one and the same, or copies that were re-encoded, rescaled or brightened.

    Parameters
    ----------
    images
        image_id and ``content_sha256``, ``fingerprint`` and, where there is, ``fingerprint_detail`` of :func:`fingerprint_of`.
    max_distance
        Bits of the fingerprint in which copies may differ.
    max_detail
        Share of the bits of the detail in which copies may differ; without that column the fingerprint alone decides.

    Returns
    -------
    ``core.schema.DUPLICATES``, in the order of ``images``: each picture that repeats an earlier one, with the earliest such one
    of the same content, or (another content) any earlier one that looks the same.

    Raises
    ------
    CohortError
        When the fingerprints are so alike that nearly all pairs would have to be compared.
    """
    ids, row = images["image_id"].to_list(), np.arange(images.height)
    rows: list[tuple[int, int, str, float]] = []
    hashes = images["content_sha256"].to_numpy().astype(str)
    _, first, which = np.unique(hashes, return_index=True, return_inverse=True)
    rows += [(int(k), int(first[which[k]]), "exact", 0.0) for k in row if first[which[k]] != k]
    seen = np.isin(row, first) & images["fingerprint"].is_not_null().to_numpy()
    places = row[seen]
    codes = np.frombuffer(bytes.fromhex("".join(images["fingerprint"].gather(places))), ">u8").astype(np.uint64)
    detail = None
    if "fingerprint_detail" in images.columns:
        digits = "".join(images["fingerprint_detail"].gather(places))
        detail = np.frombuffer(bytes.fromhex(digits), np.uint8).reshape(-1, DETAIL_BITS // 8).view(np.uint64)
    rows += [(int(places[b]), int(places[a]), "near", apart) for a, b, apart in _near(codes, detail, max_distance, max_detail)]
    rows.sort()
    columns = {
        "image_id": [ids[k] for k, *_ in rows],
        "duplicate_of": [ids[k] for _, k, *_ in rows],
        "kind": [kind for *_, kind, _ in rows],
        "share_of_bits": [apart for *_, apart in rows],
    }
    return check(pl.DataFrame(columns, schema={column.name: column.dtype for column in DUPLICATES.columns}), DUPLICATES)


def _near(
    codes: NDArray[np.uint64], detail: NDArray[np.uint64] | None, max_distance: int, max_detail: float
) -> list[tuple[int, int, float]]:
    """Return near pairs of places a < b with the share of bits (of the detail, or the fingerprint) that differ."""
    order = np.argsort(codes, kind="stable")
    distinct, starts, counts = np.unique(codes[order], return_index=True, return_counts=True)
    found: dict[tuple[int, int], float] = {}

    def keep(a: NDArray[np.intp], b: NDArray[np.intp]) -> None:
        one, two = np.minimum(a, b), np.maximum(a, b)
        if detail is not None:
            apart = np.bitwise_count(detail[one] ^ detail[two]).sum(axis=1) / DETAIL_BITS
            close = apart <= max_detail
            one, two, apart = one[close], two[close], apart[close]
        else:
            apart = np.bitwise_count(codes[one] ^ codes[two]) / BITS
        found.update(zip(zip(one.tolist(), two.tolist(), strict=True), apart.tolist(), strict=True))

    for start, count in zip(starts[counts > 1], counts[counts > 1], strict=True):  # equal fingerprints: each with the first
        same = order[start : start + count]
        keep(np.full(count - 1, same[0]), same[1:])
    for a, b in near_pairs(distinct, max_distance=max_distance):
        keep(order[starts[a]], order[starts[b]])
    return [(a, b, apart) for (a, b), apart in found.items()]


def _waves(grey: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosine transform of a picture scaled to a square, every pixel weighing the same; 0 where it is but rounding."""
    from scipy.fft import dctn

    image = need("PIL.Image", "imaging")
    small = image.fromarray(grey).resize((_SIDE, _SIDE), image.Resampling.BILINEAR)  # averages where it scales down
    waves: NDArray[np.float64] = dctn(np.asarray(small, np.float64), norm="ortho")
    waves[0, 0] = 0.0
    waves[np.abs(waves) < 1e-5 * np.abs(waves).max()] = 0.0
    return waves


def _signs(waves: NDArray[np.float64], frequencies: list[tuple[int, int, int]]) -> str:
    _, down, across = np.array(frequencies).T
    return np.packbits(waves[down, across] > 0).tobytes().hex()
