"""Plans: they scale as the work does, know what bounds it, choose no more threads than help, and refuse what cannot be held."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from toolkit.genotypes import ArrayGenotypes, array_genotypes, random_counts

from clinome.core import progress
from clinome.core.errors import OutputError, StudyError
from clinome.core.machine import Machine
from clinome.formats.genotypes import Block
from clinome.genetics import association, planner
from clinome.genetics.association import Options, associate
from clinome.genetics.planner import Plan, Rates, Work, candidates, extra_memory, fitting, plan, quickest

WORK = Work(variants=1_000_000, people=10_000, traits=100, sums=300, digits=350, store=816, block=1_200, shard=16_384)
RATES = Rates(alone=60e-6, together={1: 60e-6, 2: 30e-6}, products=20e-6, serial=0.0, copying=1e-9, disk=1e-9)


HERE = Machine(2)


def seconds(work: Work = WORK, rates: Rates = RATES, machine: Machine = HERE, **how: int) -> float:
    return plan(work, rates, machine, held=0, **how).seconds["scan"]


# --- rates that are known -----------------------------------------------------------------------------------------------------


def test_time_follows_variants_cores_and_what_neighbours_cost() -> None:
    whole = seconds()
    assert whole == pytest.approx(1e6 * (30e-6 + 816e-9 / 2))
    assert seconds(WORK._replace(variants=3_000_000)) == pytest.approx(3 * whole)
    assert seconds(machine=Machine(64)) == pytest.approx(whole / 32)
    slowed = RATES._replace(together={1: 60e-6, 2: 40e-6})  # two threads hinder each other
    assert seconds(rates=slowed, machine=Machine(64)) == pytest.approx(1e6 * (60e-6 / 64 * 4 / 3 + 816e-9 / 64))


def test_reading_that_threads_cannot_share_bounds_the_scan_until_processes_share_it() -> None:
    rates = RATES._replace(serial=25e-6, together={1: 60e-6, 2: 30e-6})
    many = plan(WORK, rates, Machine(64), held=0)
    assert many.seconds["scan"] == pytest.approx(25.0)
    assert any("--processes" in note for note in many.notes)
    assert seconds(rates=rates, machine=Machine(64), processes=4) == pytest.approx(25.0 / 4)
    assert plan(WORK, rates, Machine(2), held=0).notes == ()


def test_a_slow_disk_bounds_the_scan_and_is_named() -> None:
    slow = plan(WORK, RATES._replace(disk=1e-6), Machine(2), held=0)
    assert slow.seconds["scan"] == pytest.approx(816.0)
    assert slow.notes == ("the disk is slower than the scan",)


def test_a_gpu_takes_the_products_alone() -> None:
    without, with_one = seconds(machine=Machine(2)), seconds(machine=Machine(2, None, 1979.0))
    assert 0.6 < with_one / without < 0.75  # a third of the time is products; counts and sums must still go over the bus


@given(
    alone=st.floats(1e-7, 1e-2),
    speeds=st.dictionaries(st.integers(2, 128), st.floats(0.2, 130.0), min_size=1, max_size=6),
)
def test_the_threads_chosen_are_never_clearly_slower_than_fewer(alone: float, speeds: dict[int, float]) -> None:
    rates = RATES._replace(alone=alone, together={1: alone} | {n: alone / speed for n, speed in speeds.items()})
    most = max(speeds)
    chosen = quickest(rates, most)
    assert 1 <= chosen <= most
    assert all(rates.shared_out(chosen) <= rates.shared_out(n) / 0.85 for n in rates.together if n < chosen)


def test_threads_are_all_the_cores_unless_fewer_are_quicker() -> None:
    assert quickest(RATES, 2) == 2
    assert quickest(RATES, 64) == 64
    assert quickest(RATES._replace(together={1: 60e-6, 2: 59e-6}), 2) == 2  # no faster, but no slower either
    assert quickest(RATES._replace(together={1: 60e-6, 2: 90e-6}), 2) == 1
    assert quickest(RATES._replace(together={1: 60e-6, 32: 4e-6, 64: 9e-6}), 64) == 32
    assert [candidates(n) for n in (1, 2, 64)] == [[1], [1, 2], [32, 64]]


@given(
    memory=st.integers(10**8, 10**12),
    threads=st.integers(1, 128),
    people=st.integers(10, 500_000),
    traits=st.integers(1, 20_000),
)
def test_blocks_fit_the_memory_or_the_scan_is_refused(memory: int, threads: int, people: int, traits: int) -> None:
    work = WORK._replace(people=people, traits=traits, sums=traits + 20, store=8 * traits, shard=max(40_000_000 // traits, 1))
    try:
        fewer, block = fitting(work, memory, threads, 1, 0)
    except StudyError as error:
        assert extra_memory(work, 1, 64) > memory
        assert all(word in str(error) for word in ("got:", "free", "in the smallest blocks", "--traits"))  # noqa: PT017
        return
    assert extra_memory(work, fewer, block) <= memory
    assert block == 64 or fewer == threads  # smaller blocks first, then fewer threads


def test_few_variants_are_cut_so_that_every_thread_has_some() -> None:
    assert fitting(WORK, None, 2, 1, 0) == (2, 1_200)
    assert fitting(WORK._replace(variants=6_400), None, 64, 1, 0) == (64, 100)
    assert fitting(WORK._replace(variants=640), None, 64, 1, 0) == (64, 64)


def test_short_memory_is_said_where_it_is_the_reason() -> None:
    few = WORK._replace(variants=1_500)
    assert plan(few, RATES, Machine(2), held=0).notes == ()
    least, most = extra_memory(few, 2, 64), extra_memory(few, 2, 750)
    (note,) = plan(few, RATES, Machine(2, (least + most) // 2), held=0).notes
    assert note == "memory is short: blocks of 375 variants instead of 750"
    notes = plan(few, RATES, Machine(2, extra_memory(few, 1, 64)), held=0).notes
    assert notes == ("memory is short: 1 thread instead of 2", "memory is short: blocks of 64 variants instead of 750")


def test_a_plan_is_said_in_a_line() -> None:
    said = Plan({"a": 100.0, "scan": 80.0}, 1_240_000_000, 910_000_000, 2, 1, 1_200)
    assert str(said) == "about 3 min, 1.2 GB memory, 910 MB disk; 2 threads, blocks of 1,200 variants"
    assert "4 processes of 1 thread," in str(said._replace(threads=1, processes=4))


# --- measured on a scan ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slow(ArrayGenotypes):
    """Reading takes a millisecond a variant."""

    def read(self, variants: NDArray[np.int64], samples: NDArray[np.int64] | None = None) -> Block:
        time.sleep(1e-3 * len(variants))
        return super().read(variants, samples)


def cohort(people: int = 60, variants: int = 400, traits: int = 3, *, slow: bool = False) -> tuple[ArrayGenotypes, pl.DataFrame]:
    generator = np.random.default_rng(0)
    source = array_genotypes(random_counts(generator, variants, people, missing=0.01))
    if slow:
        source = Slow(source.samples, source.variants, source.counts, concurrent=False)
    values = pl.DataFrame(generator.normal(size=(people, traits)), schema=[f"t{i}" for i in range(traits)])
    return source, source.samples.select("participant_id").hstack(values)


def test_the_time_of_slow_reading_is_found_and_that_threads_cannot_share_it(tmp_path: Path) -> None:
    source, traits = cohort(slow=True)
    here = association.plan(source, traits, out=tmp_path, options=Options(threads=2))
    assert 0.4 < here.seconds["scan"] < 0.8  # 400 variants of a millisecond
    there = association.plan(source, traits, out=tmp_path, machine=Machine(16))
    assert 0.4 < there.seconds["scan"] < 0.8
    assert any("--processes" in note for note in there.notes)
    four = association.plan(source, traits, out=tmp_path, options=Options(processes=4), machine=Machine(16))
    assert four.seconds["scan"] < 0.2
    assert list(tmp_path.iterdir()) == []


def test_the_disk_of_a_plan_is_that_of_the_store(tmp_path: Path) -> None:
    source, traits = cohort(variants=4_000, traits=20)
    planned = association.plan(source, traits, out=tmp_path / "plan")
    associate(source, traits, out=tmp_path / "scan")
    written = sum(path.stat().st_size for path in (tmp_path / "scan").rglob("*") if path.is_file())
    assert written == pytest.approx(planned.disk, rel=0.3)
    assert list(planned.seconds) == ["preparing", "scan", "summary and report"]


def test_the_memory_of_a_plan_is_the_larger_of_scan_and_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genotypes, traits = cohort()
    monkeypatch.setattr(planner, "most_memory", lambda: 10**12)
    assert association.plan(genotypes, traits, out=tmp_path).memory == 10**12 + 260 * 400
    monkeypatch.setattr(planner, "most_memory", lambda: 0)
    assert association.plan(genotypes, traits, out=tmp_path).memory > 10**7


def test_exports_are_planned_with_their_bytes(tmp_path: Path) -> None:
    source, traits = cohort(variants=2_000)
    bare, text = (association.plan(source, traits, out=tmp_path, exports=names) for names in ((), ("regenie", "plink2")))
    assert list(text.seconds)[-2:] == ["export as regenie", "export as plink2"]
    assert 2_000 * 3 * 2 * 20 < text.disk - bare.disk < 2_000 * 3 * 2 * 100


def test_results_that_do_not_fit_the_disk_are_refused_before_a_shard_is_scanned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, traits = cohort()
    monkeypatch.setattr(planner, "free_disk", lambda _: 10_000)
    with pytest.raises(OutputError, match=r"do not fit on the disk(.|\n)*free(.|\n)*another folder with --out"):
        associate(source, traits, out=tmp_path)
    assert not (tmp_path / "shards").exists()


def test_a_long_scan_says_its_plan_and_finds_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, traits = cohort()
    plain = associate(source, traits, out=tmp_path / "plain")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "_watched", True)
    monkeypatch.setattr(planner, "_TINY", 0)
    monkeypatch.setattr(planner, "_WORTH", 0.0)
    planned = associate(source, traits, out=tmp_path / "planned")
    assert "scan: about 1 s, " in capsys.readouterr().err
    for one, other in zip(plain.shards(), planned.shards(), strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_short_memory_makes_smaller_blocks_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, traits = cohort(variants=1_000)
    whole = associate(source, traits, out=tmp_path / "whole", options=Options(threads=1))
    source.reads.clear()
    work = Work(1_000, 60, 3, 10, 10, 40, 1_000, 1_000)
    monkeypatch.setattr(Machine, "here", lambda: Machine(1, extra_memory(work, 1, 200)))
    tight = associate(source, traits, out=tmp_path / "tight")
    assert max(variants for variants, _ in source.reads) <= 250
    assert whole.trait("t1").equals(tight.trait("t1"))
    monkeypatch.setattr(Machine, "here", lambda: Machine(1, 1_000))
    with pytest.raises(StudyError, match=r"does not fit the memory"):
        associate(source, traits, out=tmp_path / "none", options=Options())
