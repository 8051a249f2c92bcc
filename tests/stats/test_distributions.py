from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from clinome.stats.distributions import neg_log10_chi2, neg_log10_f, neg_log10_t, p_to_text, z_of_neg_log10_p, z_of_t


@pytest.mark.parametrize(("t", "df"), [(0.3, 4.0), (2.0, 30.0), (60.0, 50.0), (45.0, 3000.0), (120.0, 5000.0), (200.0, 300.0)])
def test_t_equals_arbitrary_precision_however_deep(t: float, df: float) -> None:
    with mpmath.workdps(40):
        x = mpmath.mpf(df) / (mpmath.mpf(df) + mpmath.mpf(t) ** 2)
        expected = -mpmath.log10(mpmath.betainc(mpmath.mpf(df) / 2, mpmath.mpf("0.5"), 0, x, regularized=True))
    assert float(neg_log10_t(t, df)) == pytest.approx(float(expected), rel=1e-10)


@settings(max_examples=40)
@given(z=st.floats(0.01, 60))
def test_t_of_a_biobank_tends_to_the_normal(z: float) -> None:
    normal = -(stats.norm.logsf(z) + np.log(2)) / np.log(10)
    assert float(neg_log10_t(z, 1e8)) == pytest.approx(normal, rel=2e-5)
    assert float(neg_log10_chi2(z * z, 1)) == pytest.approx(normal, rel=1e-9, abs=1e-12)


def test_f_and_chi2_equal_arbitrary_precision_beyond_underflow() -> None:
    with mpmath.workdps(40):
        f = -mpmath.log10(mpmath.betainc(1500, 8, 0, mpmath.mpf(3000) / (3000 + 16 * 300), regularized=True))
        chi2 = -mpmath.log10(mpmath.gammainc(5, 1500, mpmath.inf, regularized=True))
    assert float(neg_log10_f(300.0, 16, 3000)) == pytest.approx(float(f), rel=1e-12)
    assert float(neg_log10_chi2(3000.0, 10)) == pytest.approx(float(chi2), rel=1e-12)
    assert float(neg_log10_chi2(4.0, 1)) == pytest.approx(-np.log10(stats.chi2.sf(4.0, 1)), rel=1e-12)


def test_edges() -> None:
    assert neg_log10_t(np.array([0.0, np.nan]), 10.0).tolist()[0] == 0.0
    assert np.isnan(neg_log10_t(np.nan, 10.0))
    assert np.all(np.diff(neg_log10_t(np.linspace(30, 45, 400), 3000.0)) > 0)  # no step where the method changes


def test_text_of_a_p_value() -> None:
    assert p_to_text(-np.log10(0.0123)) == "0.0123"
    assert p_to_text(1000.0) == "1e-1000"


@pytest.mark.parametrize(("df", "middle", "tail"), [(3, 1e-6, 1e-5), (20, 2e-4, 1.3e-3), (100, 1e-5, 5e-5), (5_000, 2e-6, 2e-6)])
def test_fast_z_has_the_p_of_t(df: int, middle: float, tail: float) -> None:
    """``middle``: the largest relative error of z around its median, on which λ rests; ``tail``: at z = 5."""
    for z, tolerance in ((0.6744897501960817, middle), (5.0, tail)):
        t = np.array([1, -1], dtype=np.float32) * np.float32(stats.t.isf(stats.norm.sf(z), df))
        np.testing.assert_allclose(z_of_t(t, df), z, rtol=tolerance)
        np.testing.assert_allclose(z_of_t(t, np.array([df, df])), z, rtol=tolerance)


def test_fast_z_of_nothing_and_of_next_to_nothing() -> None:
    t = np.array([np.nan, np.inf, 0.0, 1e-6], dtype=np.float32)
    np.testing.assert_allclose(z_of_t(t, 1_000), [np.nan, np.nan, 0.0, 1e-6], rtol=1e-3)


def test_z_of_a_strength_beyond_the_smallest_float_goes_on_smoothly() -> None:
    for z in (1.0, 5.0, 36.0, 38.0, 60.0):
        strength = -(stats.norm.logsf(z) + np.log(2)) / np.log(10)
        assert z_of_neg_log10_p(strength) == pytest.approx(z, rel=1e-5)
