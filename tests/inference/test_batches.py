"""Batches in parts: the same fits, as many images at once as memory holds."""

from functools import partial

import deepinv
import pytest
import torch

import pyro_vble as pv
from pyro_vble.guides import VBLE, MAPz, VBLExz
from pyro_vble.inference import batches
from pyro_vble.inference.batches import balanced, images_at_once, joint_trace
from pyro_vble.models import RestorationModel
from pyro_vble.physics import is_divisible, part_of

NOISE = deepinv.physics.GaussianNoise(0.1)
QUIET = {"progress": False, "seed": 0, "num_steps": 12, "precision": "float32"}


def masks(y):
    return deepinv.physics.Inpainting(img_size=y.shape[1:], mask=(torch.rand_like(y) > 0.3).float(), noise_model=NOISE)


@pytest.fixture
def limited(monkeypatch):
    """Memory for so many images; returns the batch sizes of the fits that were begun."""

    def limit(at_once=None, fails_above=None, error=torch.OutOfMemoryError("CUDA out of memory")):  # noqa: B008
        sizes = []
        original = batches.fit_guide

        def fit(model, guide, y, settings, **how):
            sizes.append(len(y))
            if fails_above is not None and len(y) > fails_above:
                raise error
            return original(model, guide, y, settings, **how)

        monkeypatch.setattr(batches, "fit_guide", fit)
        monkeypatch.setattr(batches, "_SURELY_FITS", 0)
        if at_once is not None:
            monkeypatch.setattr(batches, "images_at_once", lambda *_, **__: at_once)
        return sizes

    return limit


class TestParts:
    def test_without_noise_they_are_the_batch(self, cae, limited):
        """A point mass draws nothing: every image, with a mask of its own, must end where it does in the batch."""
        y = torch.rand(5, 3, 64, 64)
        physics = masks(y)
        whole = pv.restore(y, physics, cae, MAPz, **QUIET)
        sizes = limited(at_once=2)
        parts = pv.restore(y, physics, cae, MAPz, **QUIET)
        assert sizes == [2, 2, 1]
        torch.testing.assert_close(parts.elbo, whole.elbo, rtol=1e-4, atol=0)
        torch.testing.assert_close(parts.guide.loc["z"], whole.guide.loc["z"], rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("guide", [VBLE, VBLExz, partial(VBLE, family="correlated")])
    def test_with_noise_they_are_a_posterior_of_the_batch(self, cae, denoising, guide, limited):
        y = torch.rand(3, 3, 64, 64)
        whole = pv.restore(y, denoising, cae, guide, **QUIET)
        limited(at_once=2)
        parts = pv.restore(y, denoising, cae, guide, **QUIET)
        assert float(parts.elbo[-3:].mean()) == pytest.approx(float(whole.elbo[-3:].mean()), rel=0.02)
        assert parts.mmse_x(4).shape == y.shape

    def test_one_part_is_the_fit_of_that_part(self, cae, denoising, limited):
        y = torch.rand(4, 3, 64, 64)
        limited(at_once=1)
        joint = pv.restore(y, denoising, cae, **QUIET)
        seed = pv.seeding.derived_seed(0, "images", 2)
        single = pv.restore(y[2:3], denoising, cae, **QUIET | {"seed": seed})
        torch.testing.assert_close(joint.guide.loc["z"][2:3], single.guide.loc["z"], rtol=1e-3, atol=1e-3)

    def test_rate_scales_compete_in_parts_too(self, cae, denoising, limited):
        sizes = limited(at_once=2)
        posterior = pv.restore(torch.rand(3, 3, 64, 64), denoising, cae, rate_scale="auto", **QUIET)
        assert set(sizes) == {1, 2}
        assert posterior.mmse_x(2).isfinite().all()

    def test_a_point_is_judged_in_parts_too(self, cae, denoising, limited):
        sizes = limited(at_once=2)
        pv.restore(torch.rand(3, 3, 64, 64), denoising, cae, MAPz, rate_scale="auto", **QUIET)
        assert set(sizes) == {1, 2}


class TestOutOfMemory:
    def test_halves_the_batch_and_goes_on(self, cae, denoising, limited):
        sizes = limited(fails_above=2)
        y = torch.rand(8, 3, 64, 64)
        posterior = pv.restore(y, denoising, cae, **QUIET)
        assert sizes == [8, 4, 2, 2, 2, 2]
        assert len(posterior.elbo) == QUIET["num_steps"]

    @pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when ...")])
    def test_whoever_says_it(self, cae, denoising, limited, error):
        sizes = limited(fails_above=1, error=error)
        pv.restore(torch.rand(2, 3, 64, 64), denoising, cae, **QUIET)
        assert sizes == [2, 1, 1]

    def test_one_image_too_many_says_what_to_do(self, cae, denoising, limited):
        limited(fails_above=0)
        with pytest.raises(MemoryError, match="cut it into smaller images"):
            pv.restore(torch.rand(2, 3, 64, 64), denoising, cae, **QUIET)

    def test_other_errors_pass(self, cae, denoising, monkeypatch):
        def broken(*_, **__):
            raise RuntimeError("shapes do not match")

        monkeypatch.setattr(batches, "fit_guide", broken)
        with pytest.raises(RuntimeError, match="shapes do not match"):
            pv.restore(torch.rand(2, 3, 64, 64), denoising, cae, **QUIET)


class TestEstimate:
    def test_grows_with_memory_and_shrinks_with_pixels_and_particles(self, cae, denoising, monkeypatch):
        def at_once(side, free, particles=1):
            monkeypatch.setattr(batches, "free_memory", lambda device: free)
            y = torch.rand(1, 3, side, side)
            model = RestorationModel(cae, denoising)
            return images_at_once(model, VBLE(model, y), y, "float32", particles)

        few = at_once(128, 2**30)
        assert at_once(128, 2**31) == pytest.approx(2 * few, rel=0.01)
        assert at_once(256, 2**30) == pytest.approx(few / 4, rel=0.05)
        assert at_once(128, 2**30, particles=4) == pytest.approx(few / 4, rel=0.01)
        # Of what the rule asks for one image, a modest fit takes 0.55.
        assert at_once(128, 0.8 * 2**30 / few) == 1
        assert at_once(128, 0.4 * 2**30 / few) == 0

    @pytest.mark.parametrize("images", [1, 2])
    def test_what_cannot_fit_is_refused_before_the_fit(self, cae, denoising, monkeypatch, images):
        monkeypatch.setattr(batches, "_SURELY_FITS", 64**2 - 1)
        monkeypatch.setattr(batches, "free_memory", lambda device: 100_000)
        monkeypatch.setattr(batches, "fit_guide", lambda *_, **__: pytest.fail("the fit has begun"))
        with pytest.raises(MemoryError, match=r"one image of shape \(1, 3, 64, 64\) .* cut it into smaller images"):
            pv.restore(torch.rand(images, 3, 64, 64), denoising, cae, **QUIET)

    def test_small_images_are_not_looked_into(self, cae, denoising, monkeypatch):
        monkeypatch.setattr(batches, "free_memory", lambda device: 0)
        assert len(pv.restore(torch.rand(1, 3, 64, 64), denoising, cae, **QUIET).elbo) == QUIET["num_steps"]

    def test_looking_changes_nothing(self, cae, denoising, monkeypatch):
        y = torch.rand(1, 3, 64, 64)
        unlooked = pv.restore(y, denoising, cae, **QUIET)
        monkeypatch.setattr(batches, "_SURELY_FITS", 0)
        assert torch.equal(pv.restore(y, denoising, cae, **QUIET).elbo, unlooked.elbo)

    def test_unknown_memory_is_no_limit(self, cae, denoising, monkeypatch):
        monkeypatch.setattr(batches, "free_memory", lambda device: None)
        y, model = torch.rand(1, 3, 64, 64), RestorationModel(cae, denoising)
        assert images_at_once(model, VBLE(model, y), y, "float32") > 10**6

    def test_is_above_what_a_fit_takes(self, bundled, denoising, monkeypatch):
        """What torch really allocates in a step, by its own profiler, is less than the estimate."""
        y, model = torch.rand(1, 3, 128, 128), RestorationModel(bundled, denoising)
        guide = VBLE(model, y)
        monkeypatch.setattr(batches, "free_memory", lambda device: 2**40)
        estimate = batches._SHARE * 2**40 / images_at_once(model, guide, y, "float32")
        live, peak = 0, 0
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
            pv.fit(model, guide, y, num_steps=2, progress=False, precision="float32")
        for event in sorted(trace.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
            if event.name() == "[memory]":
                live += event.nbytes()
                peak = max(peak, live)
        assert 0 < peak < estimate


class TestCutting:
    def test_masks_and_filters_of_every_image_are_cut(self):
        y = torch.rand(4, 3, 16, 16)
        physics = masks(y)
        assert is_divisible(physics, y, (3, 16, 16))
        x = torch.rand(4, 3, 16, 16)
        torch.testing.assert_close(part_of(physics, slice(1, 3), 4).A(x[1:3]), physics.A(x)[1:3])
        assert physics.mask.shape == y.shape

    def test_what_cannot_be_cut_stays_whole(self, cae, limited):
        class Mixing:
            """Every measurement is of all images."""

            noise_model = NOISE

            def A(self, x):
                return x + x.mean(0, keepdim=True) * torch.arange(len(x)).reshape(-1, 1, 1, 1)

        y = torch.rand(3, 3, 64, 64)
        assert not is_divisible(Mixing(), y, (3, 64, 64))
        sizes = limited(at_once=1)
        pv.restore(y, Mixing(), cae, **QUIET)
        assert sizes == [3]

    def test_noise_by_band_is_not_taken_for_noise_by_image(self):
        """As many bands as images: cut like the images, every image would get the noise of one band."""
        y = torch.rand(3, 3, 16, 16)
        by_band = deepinv.physics.Denoising(
            deepinv.physics.GaussianNoise(torch.tensor([0.02, 0.1, 0.5])[:, None, None])
        )
        by_image = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(torch.tensor([0.02, 0.1, 0.5])))
        assert not is_divisible(by_band, y, (3, 16, 16))
        assert is_divisible(by_image, y, (3, 16, 16))

    def test_an_interrupt_ends_all_parts(self, cae, denoising, limited):
        def impatient(steps):
            for step in steps:
                if step == 1:
                    raise KeyboardInterrupt
                yield step

        sizes = limited(at_once=1)
        with pytest.warns(UserWarning, match="Interrupted after 1"):
            posterior = pv.restore(torch.rand(3, 3, 64, 64), denoising, cae, **QUIET | {"progress": impatient})
        assert sizes == [1]
        assert posterior.interrupted

    def test_parts_are_of_nearly_the_same_size_and_leave_nobody_out(self):
        for count in range(1, 30):
            for at_once in range(1, 12):
                sizes = [part.stop - part.start for part in balanced(count, at_once)]
                assert sum(sizes) == count
                assert max(sizes) <= at_once
                assert max(sizes) - min(sizes) <= 1

    def test_traces_of_parts_that_ended_early_stay_where_they_ended(self):
        joint = joint_trace([torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0])])
        assert joint.tolist() == [11.0, 12.0, 13.0]


def test_memory_that_runs_out_while_the_guide_is_built_is_said_to_have(cae, denoising):
    def guide(model, y):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.\nMore lines")

    with pytest.raises(MemoryError, match=r"restoring images measured as \(1, 3, 64, 64\).*cut them into"):
        pv.restore(torch.rand(1, 3, 64, 64), denoising, cae, guide, progress=False)
