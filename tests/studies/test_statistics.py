"""Statistics of paired runs, by hand."""

import sys

import numpy as np
import pytest

from fgfi_tf.errors import UserError

pytest.importorskip("scipy", reason="scipy computes the statistics of studies")
from fgfi_tf.studies import statistics


def test_mean_and_deviation():
    found = statistics.summarise([0.1, 0.2, 0.6])
    assert found.mean == pytest.approx(0.3) and found.deviation == pytest.approx(np.sqrt(0.07))
    low, high = found.interval
    assert 0.1 <= low < 0.3 < high <= 0.6


def test_too_few_for_an_interval():
    assert np.isnan(statistics.summarise([0.5]).deviation)
    assert statistics.summarise([0.5]).interval is None
    assert statistics.summarise([0.5, 0.6]).interval is None
    assert statistics.summarise([0.5] * 5).interval is None


def test_pairs_are_of_the_seeds_that_both_have():
    found = statistics.compare({0: 0.5, 1: 0.7, 5: 0.9}, {0: 0.4, 1: 0.4, 2: 0.1})
    assert found.seeds == (0, 1)
    np.testing.assert_allclose(found.difference.values, [0.1, 0.3])
    assert found.difference.mean == pytest.approx(0.2)


@pytest.mark.parametrize(
    "differences, p",
    [
        ([0.1] * 6, 2 / 64),  # all of one sign: two of the 2^6 flips are as extreme
        ([0.1] * 5, 2 / 32),
        ([0.3, 0.1, -0.2], 6 / 8),  # sums: 0.2 of +-0.6 +-0.4 +-0.2 0 0: six are 0.2 or more away
        ([0.3, 0.1], 2 / 4),
    ],
)
def test_sign_flips(differences, p):
    arm = dict(enumerate(differences))
    assert statistics.compare(arm, dict.fromkeys(arm, 0.0)).p_value == pytest.approx(p)


def test_one_pair_has_no_p_value():
    assert statistics.compare({0: 0.5}, {0: 0.4}).p_value is None


def test_without_scipy_a_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[study\]'"):
        statistics.summarise([0.1, 0.2, 0.3])
