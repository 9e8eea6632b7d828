"""The robust estimates against figures by hand."""

import pytest
import torch

from advrbd_plugin.statistics import median_and_deviation


def test_the_median_and_the_deviation_by_hand():
    median, deviation = median_and_deviation(torch.tensor([1.0, 2.0, 3.0, 4.0, 1000.0]))
    assert float(median) == 3.0 and float(deviation) == pytest.approx(1.4826)


def test_the_deviation_of_normal_values_is_their_standard_deviation():
    values = 5 + 2 * torch.randn(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    median, deviation = median_and_deviation(values)
    assert float(median) == pytest.approx(5, abs=0.1) and float(deviation) == pytest.approx(2, abs=0.1)


def test_values_that_are_mostly_equal_have_no_deviation():
    assert float(median_and_deviation(torch.tensor([1.0, 1.0, 1.0, 9.0]))[1]) == 0.0
