"""Figures: what is drawn where, and what is refused."""

import matplotlib

matplotlib.use("agg")

import numpy as np
import pytest
import torch
from matplotlib import pyplot

from pyro_vble.figures import side_by_side


@pytest.fixture(autouse=True)
def _closed():
    yield
    pyplot.close("all")


def test_images_stand_beside_each_other_and_errors_share_one_scale():
    x = torch.rand(1, 3, 8, 12)
    axes = side_by_side({"truth": x, "restored": x[0]}, {"small": 0.1 * x, "large": 0.5 * x}).axes
    assert [axis.get_title() for axis in axes[:4]] == ["truth", "restored", "small", "large"]
    drawn = [axis.get_images()[0] for axis in axes[:4]]
    np.testing.assert_allclose(drawn[0].get_array(), x[0].permute(1, 2, 0))
    np.testing.assert_allclose(drawn[2].get_array(), 0.1 * x[0].mean(0), rtol=1e-6)
    assert drawn[0].get_clim() == (0, 1)
    assert drawn[2].get_clim() == drawn[3].get_clim()
    assert 0.25 * float(x.max()) < drawn[2].get_clim()[1] <= 0.5 * float(x.max())


def test_missing_values_are_grey_and_have_no_error():
    x = torch.full((1, 1, 4, 4), torch.nan)
    x[..., 0] = 0.25
    axes = side_by_side({"y": x}, {"error": x}).axes
    assert set(np.unique(axes[0].get_images()[0].get_array())) == {0.25, 0.5}
    assert axes[1].get_images()[0].get_clim() == (0, 0.25)


@pytest.mark.parametrize("image", [torch.rand(4, 4), torch.rand(2, 1, 3, 4, 4)])
def test_what_is_no_image_is_refused(image):
    with pytest.raises(ValueError, match=r"Each image must be \(C, H, W\) or \(B, C, H, W\); received shape"):
        side_by_side({"x": image})


def test_no_image_at_all_is_refused():
    with pytest.raises(ValueError, match="images must hold one at least"):
        side_by_side({})
