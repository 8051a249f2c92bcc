from __future__ import annotations

import gzip
import hashlib
import re
import subprocess
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from clinome.core.errors import FormatError, OutputError, SchemaError, StudyError
from clinome.core.schema import SUMMARY_STATISTICS
from clinome.formats.sumstats import LAYOUTS, Layout, Metadata, read_sumstats, write_sumstats, writing

COLUMNS = [column.name for column in SUMMARY_STATISTICS.columns]


def frame(n_variants: int = 6, *, trait: str = "cup-to-disc ratio", info: bool = False, seed: int = 0) -> pl.DataFrame:
    """Return summary statistics with an rsid, other names, chromosome X, position 0 and, in row 2, a monomorphic variant."""
    g = np.random.default_rng(seed)
    rows = np.arange(n_variants)
    table = pl.DataFrame(
        {
            "variant_id": [f"rs{i + 1}" if i % 2 else f"Gm:{i}_A" for i in rows],
            "chromosome": ["X" if i > 3 else "7" for i in rows],
            "position": rows * 1_000,
            "effect_allele": ["A" if i % 3 else "TTC" for i in rows],
            "other_allele": ["G" if i % 3 else "T" for i in rows],
            "info": g.uniform(0.3, 1.0, n_variants),
            "trait": trait,
            "effect_allele_frequency": g.uniform(0.01, 0.99, n_variants),
            "n": g.integers(900, 1_000, n_variants),
            "beta": g.normal(size=n_variants),
            "standard_error": g.uniform(0.1, 0.2, n_variants),
            "neg_log_10_p_value": g.exponential(300.0, n_variants),
        }
    ).with_columns(
        pl.when(pl.int_range(n_variants) != 2).then(name).alias(name) for name in ("beta", "standard_error", "neg_log_10_p_value")
    )
    return table if info else table.drop("info")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("info", [False, True])
def test_what_is_written_is_read_back_in_order_with_its_empty_rows(tmp_path: Path, layout: Layout, info: bool) -> None:
    table = frame(info=info)
    path = write_sumstats(tmp_path / f"cup-to-disc ratio.{layout}.tsv.gz", [table[:2], table[2:2], table[2:]], layout=layout)
    expected = table.drop("info") if layout == "plink2" and info else table  # PLINK 2 has no such column
    assert_frame_equal(read_sumstats(path), expected, rel_tol=1e-8)


finite = st.floats(allow_nan=False, allow_infinity=False, width=64)
row = st.fixed_dictionaries(
    {
        "variant_id": st.from_regex(r"(rs[0-9]{1,9}|[!-~]{1,20})", fullmatch=True).filter(lambda v: v not in ("NA", "#NA", "nan")),
        "chromosome": st.sampled_from(["1", "2", "22", "X", "Y", "MT", "chrUn_7"]),
        "position": st.integers(0, 250_000_000),
        "effect_allele": st.from_regex(r"[ACGT]{1,5}", fullmatch=True),
        "other_allele": st.from_regex(r"[ACGT]{1,5}", fullmatch=True),
        "effect_allele_frequency": st.none() | st.floats(0, 1),
        "n": st.none() | st.integers(0, 10**9),
        "beta": st.none() | st.floats(-1e12, 1e12),
        "standard_error": st.none() | st.floats(1e-12, 1e12),
        "neg_log_10_p_value": st.none() | st.floats(0, 1) | st.floats(0, 1e6),
    }
)


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=40)
@given(rows=st.lists(row, min_size=1, max_size=8))
def test_any_values_survive(tmp_path_factory: pytest.TempPathFactory, layout: Layout, rows: list[dict[str, object]]) -> None:
    schema = {column.name: column.dtype for column in SUMMARY_STATISTICS.columns if column.required}
    rows = [
        one | {"effect_allele": "A" + str(one["effect_allele"]), "other_allele": "G" + str(one["other_allele"])} for one in rows
    ]
    table = pl.DataFrame([one | {"trait": "t"} for one in rows], schema=schema, orient="row")
    path = write_sumstats(tmp_path_factory.mktemp("any") / "t.tsv.gz", [table], layout=layout)
    back = read_sumstats(path)
    assert_frame_equal(back.drop("neg_log_10_p_value"), table.drop("neg_log_10_p_value"), rel_tol=6e-9, abs_tol=0)
    # p has nine digits: below −log10 p = 1 that is an absolute error, above it a relative one
    assert_frame_equal(
        back.select("neg_log_10_p_value"),
        table.select("neg_log_10_p_value"),
        rel_tol=1e-6,
        abs_tol=1e-8 if layout == "plink2" else 0,
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_p_values_below_the_smallest_float_keep_six_digits(tmp_path: Path, layout: Layout) -> None:
    log10p = [307.0, 308.25, 323.9, 400.123456, 1000.0, 1675.86708]
    table = frame(6).with_columns(neg_log_10_p_value=pl.Series(log10p))
    back = read_sumstats(write_sumstats(tmp_path / "t.tsv", [table], layout=layout))
    assert back["neg_log_10_p_value"].to_list() == pytest.approx(log10p, rel=1e-7)


def test_the_three_layouts_letter_by_letter(tmp_path: Path) -> None:
    table = pl.DataFrame(
        {
            "variant_id": ["rs3683945", "marker.2"],
            "chromosome": ["1", "X"],
            "position": [10, 20],
            "effect_allele": ["A", "T"],
            "other_allele": ["G", "C"],
            "info": [0.9, None],
            "trait": ["t", "t"],
            "effect_allele_frequency": [0.25, 0.0],
            "n": [100, 90],
            "beta": [0.5, None],
            "standard_error": [0.25, None],
            "neg_log_10_p_value": [400.0, None],
        }
    )
    wanted = {
        "gwas-ssf": "chromosome base_pair_location effect_allele other_allele beta standard_error effect_allele_frequency "
        "neg_log_10_p_value variant_id rsid ref_allele info n marker\n"
        "1 10 A G 0.5 0.25 0.25 400.0 1_10_G_A rs3683945 OA 0.9 100 #NA\n"
        "23 20 T C #NA #NA 0.0 #NA 23_20_C_T #NA OA #NA 90 marker.2\n",
        "regenie": "CHROM GENPOS ID ALLELE0 ALLELE1 A1FREQ INFO N TEST BETA SE CHISQ LOG10P EXTRA\n"
        "1 10 rs3683945 G A 0.25 0.9 100 ADD 0.5 0.25 4.0 400.0 NA\n"
        "23 20 marker.2 C T 0.0 NA 90 ADD NA NA NA NA NA\n",
        "plink2": "#CHROM POS ID REF ALT A1 A1_FREQ TEST OBS_CT BETA SE T_STAT P\n"
        "1 10 rs3683945 G A A 0.25 ADD 100 0.5 0.25 2.0 1.0e-400\n"
        "X 20 marker.2 C T T 0.0 ADD 90 NA NA NA NA\n",
    }
    for layout in LAYOUTS:
        path = write_sumstats(tmp_path / f"{layout}.tsv", [table], layout=layout, metadata=Metadata(other_is_reference=True))
        assert path.read_text().replace("\t", " ") == wanted[layout]
        assert ("\t" in path.read_text()) == (layout != "regenie")


def test_reference_allele_is_not_claimed_when_nobody_stated_it(tmp_path: Path) -> None:
    path = write_sumstats(tmp_path / "t.tsv", [frame()], layout="gwas-ssf")
    columns = pl.read_csv(path, separator="\t", infer_schema=False)
    assert set(columns["variant_id"]) == set(columns["ref_allele"]) == {"#NA"}


def test_equal_frames_are_equal_bytes_whatever_the_name_and_the_blocks_hold(tmp_path: Path) -> None:
    table = frame(50)
    one = write_sumstats(tmp_path / "one.tsv.gz", [table], layout="regenie")
    two = write_sumstats(tmp_path / "two.tsv.gz", [table], layout="regenie")
    blocks = write_sumstats(tmp_path / "blocks.tsv.gz", [table[i : i + 7] for i in range(0, 50, 7)], layout="regenie")
    assert one.read_bytes() == two.read_bytes()
    assert gzip.decompress(one.read_bytes()) == gzip.decompress(blocks.read_bytes())


def test_metadata_holds_the_mandatory_fields_and_the_checksum(tmp_path: Path) -> None:
    about = Metadata(
        trait_description='cup: "disc" ratio – left',
        genome_assembly="GRCh38",
        adjusted_covariates=("age", "no"),
        analysis_software="clinome 0",
        modified=date(2026, 11, 20),
    )
    table = frame().filter(pl.col("beta").is_not_null(), pl.col("position") > 0)
    path = write_sumstats(tmp_path / "t.tsv.gz", [table], layout="gwas-ssf", metadata=about)
    assert yaml.safe_load((tmp_path / "t.tsv.gz-meta.yaml").read_text()) == {
        "date_metadata_last_modified": date(2026, 11, 20),
        "trait_description": ['cup: "disc" ratio – left'],
        "genome_assembly": "GRCh38",
        "coordinate_system": "1-based",
        "genotyping_technology": ["NR"],
        "samples": [{"sample_ancestry_category": ["NR"], "sample_size": table["n"].max(), "case_control_study": False}],
        "sex": "NR",
        "data_file_name": "t.tsv.gz",
        "file_type": "GWAS-SSF v1.0",
        "data_file_md5sum": hashlib.md5(path.read_bytes()).hexdigest(),
        "analysis_software": "clinome 0",
        "adjusted_covariates": ["age", "no"],
        "is_harmonised": False,
        "is_sorted": True,
    }


def test_metadata_counts_what_the_standard_does_not_allow(tmp_path: Path) -> None:
    table = frame().with_columns(
        effect_allele=pl.when(pl.int_range(pl.len()) == 1).then(pl.lit("D")).otherwise("effect_allele"),
        chromosome=pl.when(pl.int_range(pl.len()) == 5).then(pl.lit("scaffold_9")).otherwise("chromosome"),
    )
    write_sumstats(tmp_path / "t.tsv", [table[3:], table[:3]], layout="gwas-ssf")
    about = yaml.safe_load((tmp_path / "t.tsv-meta.yaml").read_text())
    assert about["file_type"] == "pre-GWAS-SSF"
    assert about["author_notes"] == (
        "kept although GWAS-SSF does not allow it: 1 rows without an estimate (#NA), 1 rows at position 0 (unknown), "
        "1 rows on a chromosome outside 1-25, 1 rows with an allele that is not spelled in A, C, G, T"
    )
    assert about["is_sorted"] is False


@pytest.mark.parametrize("order", [[0, 1, 2], [0, 2, 1], [1, 0, 2]])
def test_is_sorted_sees_disorder_within_and_between_frames(tmp_path: Path, order: list[int]) -> None:
    table = frame(6).with_columns(chromosome=pl.Series(["2", "2", "10", "10", "X", "X"]), position=pl.Series([5, 5, 1, 9, 2, 3]))
    write_sumstats(tmp_path / "t.tsv", [table[2 * i : 2 * i + 2] for i in order], layout="gwas-ssf")
    assert yaml.safe_load((tmp_path / "t.tsv-meta.yaml").read_text())["is_sorted"] is (order == [0, 1, 2])
    write_sumstats(tmp_path / "t.tsv", [table[::-1]], layout="gwas-ssf")
    assert yaml.safe_load((tmp_path / "t.tsv-meta.yaml").read_text())["is_sorted"] is False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trait": pl.lit("another")}, "holds one trait"),
        ({"beta": pl.lit(float("inf"))}, "'beta' holds an infinite number or NaN"),
        ({"neg_log_10_p_value": pl.lit(float("nan"))}, "'neg_log_10_p_value' holds an infinite number or NaN"),
        ({"variant_id": pl.lit("rs1 x")}, "'variant_id' holds a blank"),
        ({"other_allele": pl.lit("")}, "'other_allele' holds a blank"),
        ({"chromosome": pl.lit("23")}, "numbers chromosomes as in humans, where 23 is not an autosome"),
        ({"info": pl.lit(0.5)}, "a later frame has the column 'info'"),
        ({"colour": pl.lit("red")}, "column 'colour' is not part of"),
    ],
)
def test_a_bad_frame_is_one_error_and_leaves_no_file(tmp_path: Path, change: dict[str, pl.Expr], message: str) -> None:
    table = frame()
    with pytest.raises(SchemaError, match=message):
        write_sumstats(tmp_path / "t.tsv.gz", [table, table.with_columns(**change)], layout="gwas-ssf")
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_writing(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="no summary statistics were given"):
        write_sumstats(tmp_path / "t.tsv", [], layout="plink2")
    with pytest.raises(StudyError, match="no layout 'bolt'"):
        write_sumstats(tmp_path / "t.tsv", [frame()], layout="bolt")  # type: ignore[arg-type]
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_sumstats(tmp_path / "file" / "t.tsv", [frame()], layout="plink2")
    with pytest.raises(ZeroDivisionError), writing(tmp_path / "t.tsv", layout="regenie") as write:
        write(frame().with_columns(n=1 // 0))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_frames_without_rows_are_no_rows(tmp_path: Path, layout: Layout) -> None:
    """A scan whose filters leave nothing in its first shard, or in any."""
    table = frame(info=layout != "plink2")
    path = write_sumstats(tmp_path / "t.tsv", [table[:0], table], layout=layout)
    assert_frame_equal(read_sumstats(path, trait=table["trait"][0]), table, rel_tol=1e-8)
    path = write_sumstats(tmp_path / "t.tsv", [table[:0], table[:0]], layout=layout)
    assert read_sumstats(path).schema == table.schema
    assert read_sumstats(path).is_empty()


def test_a_scan_of_many_traits_keeps_many_files_open(tmp_path: Path) -> None:
    from contextlib import ExitStack

    with ExitStack() as stack:
        write = {name: stack.enter_context(writing(tmp_path / f"{name}.tsv.gz", layout="plink2")) for name in ("a", "b", "c")}
        for start in (0, 3):
            for name in write:
                write[name](frame(trait=name, seed=ord(name))[start : start + 3])
    for name in write:
        assert_frame_equal(read_sumstats(tmp_path / f"{name}.tsv.gz"), frame(trait=name, seed=ord(name)), rel_tol=1e-8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not that of summary statistics.*\n.*\n.*an empty file"),
        (b"CHR SNP BP A1 TEST NMISS BETA STAT P\n", "not that of summary statistics"),
        (b"\x1f\x8b\x08\x00", "gzip data is truncated"),
    ],
)
def test_files_that_are_not_summary_statistics(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "t.tsv").write_bytes(text)
    with pytest.raises(FormatError, match=message):
        read_sumstats(tmp_path / "t.tsv")
    with pytest.raises(FormatError, match="cannot be read"):
        read_sumstats(tmp_path / "absent.tsv")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_truncated_and_spoilt_files_are_refused(tmp_path: Path, layout: Layout) -> None:
    whole = write_sumstats(tmp_path / "t.tsv.gz", [frame(200)], layout=layout).read_bytes()
    text = gzip.decompress(whole)
    for spoilt, message in [
        (whole[: len(whole) // 2], "gzip data is truncated or damaged"),
        (whole[:-1], "gzip data is truncated or damaged"),
        (text[:-3], "ends in the middle of a line"),
        (re.sub(rb"(\n[^\n.]*)\.", rb"\1,", text, count=1), "a value of .* is not what it should be"),
    ]:
        (tmp_path / "spoilt.tsv").write_bytes(spoilt)
        with pytest.raises(FormatError, match=message):
            read_sumstats(tmp_path / "spoilt.tsv")


def test_a_wrong_value_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "t.regenie").write_text(
        "CHROM GENPOS ID ALLELE0 ALLELE1 A1FREQ N TEST BETA SE CHISQ LOG10P EXTRA\n"
        "1 10 a A G 0.5 9 ADD 1 1 1 1 NA\n1 10 a A G 0.5 9 DOM x 1 1 1 NA\n1 x1 b A G 0.5 9 ADD 1 1 1 1 NA\n"
    )
    with pytest.raises(FormatError, match=r"'position'.*\n.*line 4\n.*got: +x1\n.*base pair"):
        read_sumstats(tmp_path / "t.regenie")


def test_variants_of_plink2_columns(tmp_path: Path) -> None:
    head = "#CHROM\tPOS\tID\tREF\tALT\t"
    files = {
        "or": head + "A1\tFIRTH?\tTEST\tOBS_CT\tOR\tLOG(OR)_SE\tZ_STAT\tP\tERRCODE\n"
        "1\t5\trs1\tA\tG\tA\tN\tADD\t100\t2\t0.25\t2.77\t0.01\t.\n1\t5\trs1\tA\tG\tA\tN\tage\t100\t9\t0.25\t2.77\t0.9\t.\n",
        "log": head + "A1\tOMITTED\tA1_FREQ\tTEST\tOBS_CT\tBETA\tSE\tT_STAT\tNEG_LOG10_P\tERRCODE\n"
        "1\t5\trs1\tA\tC,G\tG\tA\t0.2\tADD\t100\t0.693147\t0.25\t2.77\t2.0\t.\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    one, two = (read_sumstats(tmp_path / name, trait="t").row(0, named=True) for name in files)
    assert read_sumstats(tmp_path / "or").height == 1  # the covariate's row is left out
    assert (one["effect_allele"], one["other_allele"], one["effect_allele_frequency"]) == ("A", "G", None)
    assert (two["effect_allele"], two["other_allele"], two["effect_allele_frequency"]) == ("G", "A", 0.2)
    for found in (one, two):
        assert found["beta"] == pytest.approx(np.log(2), abs=1e-6)
        assert (found["standard_error"], found["neg_log_10_p_value"], found["n"]) == (0.25, pytest.approx(2.0), 100)


def test_regenie_chromosome_23_is_x_unless_the_species_has_more(tmp_path: Path) -> None:
    line = "{} 10 a A G 0.5 9 ADD 1 1 1 1 NA\n"
    header = "CHROM GENPOS ID ALLELE0 ALLELE1 A1FREQ N TEST BETA SE CHISQ LOG10P EXTRA\n"
    for chromosomes, expected in [(["1", "23"], ["1", "X"]), (["23", "29"], ["23", "29"])]:
        (tmp_path / "t.regenie").write_text(header + "".join(line.format(c) for c in chromosomes))
        assert read_sumstats(tmp_path / "t.regenie")["chromosome"].to_list() == expected


# rows, the best variant with its effect allele and −log10 p, all taken from the files with other tools (zcat, sort)
STORED = [
    ("hs-mice/expected-plink2/mice_q.Biochem.HDL.glm.linear.gz", 10_074, "rs13476237", "A", 0.230442, -np.log10(7.73924e-56)),
    ("soynam/expected-plink2/soy.R8.glm.linear.gz", 4_315, "Gm10_44630777_C_A", "C", -1.28361, -np.log10(1.18924e-74)),
    ("soynam/expected-regenie-4.1.2/soy_s2_R8.regenie.gz", 4_315, "Gm10_44630777_C_A", "A", 1.16457, 74.1051),
]


@pytest.mark.parametrize(("name", "rows", "variant", "allele", "beta", "log10p"), STORED)
def test_stored_outputs(
    real_data: Callable[[str], Path], name: str, rows: int, variant: str, allele: str, beta: float, log10p: float
) -> None:
    table = read_sumstats(real_data(name.split("/")[0]) / name.split("/", 1)[1])
    assert table.height == rows
    top = table.sort("neg_log_10_p_value").row(-1, named=True)
    assert (top["variant_id"], top["effect_allele"], top["beta"]) == (variant, allele, beta)
    assert top["neg_log_10_p_value"] == pytest.approx(log10p, rel=1e-9)


def test_every_stored_linear_scan_survives_every_layout(tmp_path: Path, real_data: Callable[[str], Path]) -> None:
    for path in sorted(real_data("maize-drops").glob("expected-plink2/*.glm.linear.gz")):
        table = read_sumstats(path)
        assert table["n"].unique().to_list() == [246]
        for layout in LAYOUTS:
            back = read_sumstats(write_sumstats(tmp_path / "t.tsv.gz", [table], layout=layout), trait=table["trait"][0])
            assert_frame_equal(back, table, rel_tol=1e-8, abs_tol=1e-8)


def test_plink2_scores_people_with_our_file(tmp_path: Path, program: Callable[[str], str]) -> None:
    """PLINK 2 finds our id, effect allele and beta columns, and matches every variant by them."""
    table = frame(40).filter(pl.col("beta").is_not_null())
    write_sumstats(tmp_path / "t.tsv", [table], layout="plink2")

    def plink2(*words: str) -> str:
        return subprocess.run(
            [program("plink2"), *words, "--out", "d"], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    plink2("--dummy", "50", str(table.height), "--make-bed", "--seed", "1")
    table.select(
        pl.lit("1"),
        "variant_id",
        pl.lit(0).alias("cm"),
        pl.int_range(1, pl.len() + 1).alias("place"),
        "effect_allele",
        "other_allele",
    ).write_csv(tmp_path / "d.bim", separator="\t", include_header=False)
    said = plink2("--bfile", "d", "--score", "t.tsv", "3", "6", "10", "header", "no-mean-imputation")
    assert f"--score: {table.height} variants processed." in said


def test_a_clean_file_meets_the_rules_of_the_standards_validator(tmp_path: Path) -> None:
    """The rules of GWAS-SSF 1.1's Table 1 and of gwas-sumstats-tools, written down here a second time; #NA where they allow it."""
    table = frame(30, info=True).filter(pl.col("beta").is_not_null(), pl.col("position") > 0)
    path = write_sumstats(tmp_path / "t.tsv.gz", [table], layout="gwas-ssf", metadata=Metadata(other_is_reference=True))
    columns = pl.read_csv(path, separator="\t", infer_schema=False)
    number = r"^-?\d+(\.\d+)?([eE]-?\d+)?$"
    mandatory = {
        "chromosome": r"^([1-9]|1\d|2[0-5])$",
        "base_pair_location": r"^[1-9]\d*$",
        "effect_allele": r"^[ACGT]+$",
        "other_allele": r"^[ACGT]+$",
        "beta": number,
        "standard_error": number,
        "effect_allele_frequency": r"^(0(\.\d+)?|1(\.0)?)$",
        "neg_log_10_p_value": r"^\d+(\.\d+)?([eE]-?\d+)?$",
    }
    encouraged = {
        "variant_id": r"^(#NA|([1-9]|1\d|2[0-5])_[0-9]+_[ACGT]+_[ACGT]+)$",
        "rsid": r"^(#NA|rs[0-9]+)$",
        "ref_allele": r"^(#NA|EA|OA)$",
        "info": r"^(#NA|0(\.\d+)?|1(\.0)?)$",
        "n": r"^(#NA|\d+)$",
    }
    assert columns.columns == [*mandatory, *encouraged, "marker"]
    for name, rule in (mandatory | encouraged).items():
        assert columns[name].str.contains(rule).all(), name
