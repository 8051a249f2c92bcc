from __future__ import annotations

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from clinome.imaging.features import DRAWS, augment, draw_pairs, to_tensor, views


def four_views(n_people: int) -> pl.DataFrame:
    rows = [(f"p{k}", side, visit) for k in range(n_people) for side in ("left", "right") for visit in (0, 1)]
    return pl.DataFrame(rows, schema=["participant_id", "laterality", "visit"], orient="row")


def test_a_pair_is_the_other_eye_at_the_other_visit() -> None:
    seen = views(four_views(50).sample(fraction=1.0, shuffle=True, seed=1))
    pairs = draw_pairs(seen, np.arange(50), np.random.default_rng(1))
    np.testing.assert_array_equal(seen.person[pairs], np.column_stack([np.arange(50), np.arange(50)]))
    assert (seen.eye[pairs[:, 0]] != seen.eye[pairs[:, 1]]).all()
    assert (seen.visit[pairs[:, 0]] != seen.visit[pairs[:, 1]]).all()
    assert len(np.unique(pairs[:, 0])) > 40  # any of the four may come first


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1), st.integers(0, 2)), min_size=1, max_size=30), st.integers(0, 99))
def test_pairs_under_missing_pictures(rows: list[tuple[int, int, int]], seed: int) -> None:
    table = pl.DataFrame(
        {
            "participant_id": [f"p{p}" for p, _, _ in rows],
            "laterality": [("left", "right")[eye] for _, eye, _ in rows],
            "visit": [visit for _, _, visit in rows],
        }
    )
    seen = views(table)
    people = np.arange(0, len(seen.people), 2)  # some of them only
    pairs = draw_pairs(seen, people, np.random.default_rng(seed))
    np.testing.assert_array_equal(seen.person[pairs], np.column_stack([people, people]))
    count = np.bincount(seen.person)[people]
    np.testing.assert_array_equal(pairs[:, 0] == pairs[:, 1], count == 1)
    for person, (first, second) in zip(people, pairs, strict=True):
        others = np.flatnonzero(seen.person == person)
        if (seen.visit[others] != seen.visit[first]).any():
            assert seen.visit[first] != seen.visit[second]


def test_a_table_without_sides_and_visits() -> None:
    seen = views(pl.DataFrame({"participant_id": ["b", "a", "b"]}))
    assert seen.people == ["a", "b"]
    assert (seen.eye == -1).all()
    assert (seen.visit == 0).all()


def test_augmentation_in_the_middle_changes_nothing_and_each_row_is_its_own() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (3, 20, 20, 3), dtype=np.uint8)
    middle = np.full((3, DRAWS), 0.5)
    np.testing.assert_allclose(augment(pixels, middle).numpy(), to_tensor(pixels).numpy(), atol=1e-5)
    draws = np.random.default_rng(2).random((3, DRAWS))
    changed = augment(pixels, draws).numpy()
    np.testing.assert_allclose(augment(pixels[1:2], draws[1:2]).numpy(), changed[1:2], atol=1e-5)
    assert np.abs(changed - to_tensor(pixels).numpy()).max() > 0.05


def test_augmentation_keeps_pigmentation_and_disc_size_in_order() -> None:
    """Between-person differences survive: the darkest and the lightest stay apart, and an area keeps its number of pixels."""
    y, x = np.mgrid[0:64, 0:64]
    disc = np.stack([(np.hypot(y - 32, x - 32) < r) * 200 for r in (8, 16)]).astype(np.uint8)
    draws = np.random.default_rng(3).random((200, DRAWS))
    small, large = (augment(np.repeat(d[None, :, :, None], 200, 0).repeat(3, 3), draws).numpy() for d in disc)
    area = [(a[:, 0] > a[:, 0].max(axis=(1, 2), keepdims=True) / 2).sum(axis=(1, 2)) for a in (small, large)]
    assert np.abs(np.concatenate([area[0] / (disc[0] > 0).sum(), area[1] / (disc[1] > 0).sum()]) - 1).max() < 0.06
    shades = [
        augment(np.full((200, 16, 16, 3), level, np.uint8), draws).numpy()[:, :, 6:10, 6:10].mean(axis=(1, 2, 3))
        for level in (80, 120)
    ]
    assert shades[0].max() < shades[1].mean()
