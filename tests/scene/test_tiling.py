"""Cells carry the likelihood of the scene, and become one posterior without seams."""

from functools import partial

import deepinv
import numpy as np
import pytest
import torch
from scene.scenes import arrays, blur, denoising, measured, prior, restored

import pyro_vble as pv
from pyro_vble.guides import VBLE, MAPz, VBLExz
from pyro_vble.physics import OpticalMTF, OpticalSensor, point_spread_function
from pyro_vble.scene import engine, tiles
from pyro_vble.scene.operators import scene_operator
from pyro_vble.scene.restoration import cut
from pyro_vble.scene.store import Store
from pyro_vble.seeding import derived_seed

GUIDES = {
    "VBLE": VBLE,
    "VBLE-gaussian": partial(VBLE, family="gaussian"),
    "VBLE-xz": VBLExz,
    "VBLE-xz-free": partial(VBLExz, free_mean=True),
    "VBLE-xz-free-uniform": partial(VBLExz, free_mean=True, family="uniform"),
}


@pytest.mark.parametrize(
    ("name", "size"), [*((name, (70, 33)) for name in GUIDES), *(("VBLE-xz-free", size) for size in [(4, 65), (1, 1)])]
)
def test_of_one_cell_the_posterior_is_that_of_restore(tmp_path, name, size):
    """Also where the network sees a padded image: what is decoded at the edge depends on latents beyond it."""
    y = measured(2, *size)
    scene = restored(tmp_path / "a.scene", y, guide=GUIDES[name], tile=192, precision="float32")
    options = {"num_steps": 3, "seed": derived_seed(0, "cell", 0), "precision": "float32", "device": "cpu"}
    one = pv.restore(torch.from_numpy(y)[None], denoising(), prior(), GUIDES[name], progress=False, **options)
    for site, factor in one.guide.factors.items():
        loc, std = (value[0].numpy() for value in factor.moments())
        found = {kind: scene._store.array("mosaic", f"{site}_{kind}")[:] for kind in ("loc", "std")}
        assert found["loc"].shape == loc.shape
        assert np.abs(found["loc"] - loc).max() <= (2e-3 if site == "x_decentered" else 0)
        assert np.abs(found["std"] / std - 1).max() < 1e-3  # half precision
    n = 40
    scatter = one.std(n)
    difference = (scene.mmse_x(n) - one.mmse_x(n)) / (scatter * (2 / n) ** 0.5)
    assert difference.abs().max() < 6
    assert 0.5 < float((scene.std(n) / scatter).mean()) < 2


# --- what is measured ---


class _Operators:
    blur = staticmethod(lambda: blur(1.0))
    even = staticmethod(
        lambda: deepinv.physics.Blur(
            filter=torch.rand(1, 1, 4, 6, generator=torch.Generator().manual_seed(0)), padding="replicate"
        )
    )
    sensor = staticmethod(
        lambda: OpticalSensor(point_spread_function(OpticalMTF(along=0.15, across=0.15), scale=2), scale=2)
    )
    thirds = staticmethod(
        lambda: (
            lambda shape: deepinv.physics.Downsampling(img_size=shape, filter="bicubic", factor=3, padding="reflect")
        )
    )


@pytest.mark.parametrize("name", ["blur", "even", "sensor", "thirds"])
def test_a_cell_carries_just_the_values_that_depend_on_its_window_alone(tmp_path, monkeypatch, name):
    """What a window measures of any image is what the whole measures there, wherever there is a likelihood."""
    physics = getattr(_Operators, name)()
    operator = scene_operator(physics, 1)
    height, width = (operator.ratio * side for side in (201 // operator.ratio, 330 // operator.ratio))
    seen = {}

    def restore(y, own, *args, image_shape, **options):
        seen[len(seen)] = (y, own)
        raise RuntimeError("seen")

    monkeypatch.setattr(tiles, "restore", restore)
    unit = np.lcm(64, operator.ratio)
    y = measured(1, height // operator.ratio, width // operator.ratio)
    with pytest.raises(ValueError, match="No cell"):
        restored(tmp_path / "a.scene", y, physics, tile=int(unit))
    grid, _, margin = cut(y.shape, operator, prior(), tile=int(unit))
    x = torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(0))
    whole = operator.physics((1, height, width)).A(x)
    assert len(seen) == engine.ATTEMPTS * len(grid.places)
    carried = np.zeros(y.shape, bool)
    for number, place in enumerate(grid.places):
        window = grid.window(*place)
        part = tuple(slice(s.start // operator.ratio, s.stop // operator.ratio) for s in window.slices)
        received, own = seen[engine.ATTEMPTS * number]
        kept = received.isfinite()
        assert np.array_equal(received[kept].numpy(), y[(..., *part)][kept[0].numpy()])
        measured_here = own.A(x[(..., *window.slices)])
        assert float((measured_here - whole[(..., *part)])[kept].abs().max()) < 1e-5
        # No more is left out than what a value reaches; nothing at the scene's own edges.
        rows, columns = kept[0, 0].any(1).nonzero(), kept[0, 0].any(0).nonzero()
        edge = -(-margin // operator.ratio)
        assert int(rows[0]) == (edge if window.top else 0)
        assert int(columns[0]) == (edge if window.left else 0)
        assert len(kept[0, 0]) - 1 - int(rows[-1]) == (edge if window.bottom < height else 0)
        assert len(kept[0, 0, 0]) - 1 - int(columns[-1]) == (edge if window.right < width else 0)
        carried[(..., *part)] |= kept[0].numpy()
    assert carried.all()


# --- settings and shapes ---


@pytest.mark.parametrize("bands", [1, 3, 4])
@pytest.mark.parametrize("name", ["VBLE", "VBLE-xz-free-uniform"])
def test_any_number_of_bands_and_a_leftover_row(tmp_path, bands, name):
    scene = restored(tmp_path / "a.scene", measured(bands, 129, 67), guide=GUIDES[name])
    mean = scene.results["mean"].values
    assert mean.shape == (bands, 129, 67)
    assert np.isfinite(mean).all()
    assert (scene.rows, scene.columns) == (3, 2)
    assert scene.failed == {}


@pytest.mark.parametrize(("factor", "tile"), [(2, 64), (3, 192), (4, 128)])
def test_super_resolution_of_sizes_that_are_multiples_of_nothing(tmp_path, factor, tile):
    physics = lambda shape: deepinv.physics.Downsampling(  # noqa: E731
        img_size=shape, filter="bicubic", factor=factor, padding="reflect",
        noise_model=deepinv.physics.GaussianNoise(0.02),
    )  # fmt: skip
    y = measured(1, 67, 53)
    scene = restored(tmp_path / "a.scene", y, physics, tile=tile, samples=2)
    assert scene.shape == (1, 1, 67 * factor, 53 * factor)
    assert np.isfinite(scene.results["mean"].values).all()
    window = np.s_[tile - 5 : tile + 20, 0:40]
    assert torch.equal(scene.draw(3)[:, window[0], window[1]], scene.draw(3, window))


def test_tiles_and_halos_that_do_not_fit_are_refused_with_a_remedy(tmp_path):
    thirds = _Operators.thirds()
    with pytest.raises(ValueError, match=r"tile must be a multiple of 192.*received 512; choose 576"):
        restored(tmp_path / "a.scene", physics=thirds, tile=512)
    with pytest.raises(ValueError, match="halo must be a multiple of 64"):
        restored(tmp_path / "a.scene", halo=10)
    with pytest.raises(ValueError, match=r"halo must be at least what a measured value depends on.*choose 64"):
        restored(tmp_path / "a.scene", physics=blur(), halo=0)
    assert not (tmp_path / "a.scene").exists()


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@pytest.mark.parametrize("rate_scale", [1.0, 0.5])
def test_precision_and_rate_scale_reach_every_cell(tmp_path, precision, rate_scale):
    options = {"rate_scale": rate_scale, "precision": precision, "guide": VBLE}
    scene = restored(tmp_path / "a.scene", measured(1, 100, 60), **options)
    assert scene._about["precision"] == precision
    assert scene._prior.rate_scale == rate_scale
    one = pv.restore(
        torch.from_numpy(measured(1, 100, 60))[None], denoising(), prior(), VBLE, num_steps=3, progress=False,
        rate_scale=rate_scale, precision=precision, seed=0,
    )  # fmt: skip
    # Another seed's short fit, of a random network: of the same size, no more.
    assert 0.5 < float(scene.std(50).mean() / one.std(50).mean()) < 2


def test_another_scene_in_the_place_of_a_removed_one_has_its_own_prior(tmp_path):
    import shutil

    first = restored(tmp_path / "a.scene", measured(1, 60, 60), rate_scale=0.5)
    assert first._prior.rate_scale == 0.5
    shutil.rmtree(tmp_path / "a.scene")
    assert restored(tmp_path / "a.scene", measured(1, 60, 60))._prior.rate_scale == 1


def _auto_normal(model, y):
    from pyro.infer.autoguide import AutoNormal

    return AutoNormal(model)


@pytest.mark.parametrize(
    ("guide", "name"),
    [(MAPz, "PointFactor"), (partial(VBLExz, family="correlated"), "ChannelFactor"), (_auto_normal, "AutoNormal")],
)
def test_guides_that_are_no_maps_are_refused_before_anything_is_fitted(tmp_path, guide, name):
    with pytest.raises(ValueError, match=rf"independent Gaussian or uniform factors.*{name}.*choose VBLExz or VBLE"):
        restored(tmp_path / "a.scene", guide=guide)
    assert not (tmp_path / "a.scene").exists()


# --- missing pixels ---


@pytest.mark.parametrize("fill", [False, True])
def test_missing_pixels_are_missing_unless_filled_in_and_empty_cells_always(tmp_path, fill):
    y = measured(2, 128, 200)
    y[:, 20:30, 20:40] = np.nan
    y[0, 70:75, 5:10] = np.nan
    y[:, :, 120:] = np.nan  # the last column of cells holds nothing; of the one before 8 pixels
    scene = restored(tmp_path / "a.scene", y, fill=fill)
    found = scene.results
    empty = np.zeros(y.shape, bool)
    empty[:, :, 192:] = True
    assert scene.failed == {}
    for name in ("mean", "std", "low", "high"):
        absent = np.isnan(found[name].values)
        if fill:  # as far as a window holds a measurement
            assert not absent[:, :, :128].any()
            assert absent[empty].all()
        else:
            assert np.array_equal(absent, np.isnan(y)), name
    assert torch.isnan(scene.draw(0)[:, :, 192:]).all()
    assert torch.isfinite(scene.draw(0)[:, :, :128]).all()
    assert torch.isnan(scene.quantile(0.5, 3)[..., 195:]).all()


@pytest.mark.parametrize("name", ["VBLE", "VBLE-xz-free"])
def test_pixels_beside_an_empty_cell_are_decoded_from_their_own_fit(tmp_path, name):
    """What is measured up to the border of a cell without measurements is restored as at any other place."""
    y = measured(1, 64, 256)
    y[:, :, 64:] = np.nan
    scene = restored(tmp_path / "a.scene", y, guide=GUIDES[name], precision="float32")
    # That cell's fit by itself: its window ends in the empty one.
    grid = scene._grid
    window = grid.window(0, 0)
    own = pv.restore(
        torch.from_numpy(y[(..., *window.slices)])[None], denoising(), prior(), GUIDES[name], num_steps=3,
        seed=derived_seed(0, "cell", 0), precision="float32", progress=False,
    )  # fmt: skip
    n = 40
    spread = own.std(n)[..., :64]
    difference = (scene.mmse_x(n)[..., :64] - own.mmse_x(n)[..., :64]) / (spread * (2 / n) ** 0.5)
    assert difference.abs().max() < 6
    assert 0.7 < float((scene.std(n)[..., 48:64] / spread[..., 48:]).mean()) < 1.4


def test_a_scene_without_a_measured_pixel_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must have a measured pixel.*nodata and bands"):
        restored(tmp_path / "a.scene", np.full((1, 100, 70), np.nan, np.float32))


def test_the_last_cell_is_as_good_as_any_though_its_window_is_padded(tmp_path):
    """What is decoded next to the lower and right edge depends on latents of the padding, which the mosaic has."""
    scene = restored(tmp_path / "a.scene", measured(1, 129, 65))
    about = Store(scene._store.path).about["fields"]
    found = arrays(scene._store.path)
    assert found["mosaic/z_loc"].shape[-2:] == (12, 8)
    assert found["mosaic/h_loc"].shape[-2:] == (3, 2)
    assert found["mosaic/x_decentered_std"].shape[-2:] == (129, 65)
    assert (about["z"]["step"], about["z"]["unit"]) == (16, 64)
    assert (found["mosaic/z_std"] != 1).all()  # all of them were fitted
