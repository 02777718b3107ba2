import deepinv
import pyro
import pytest
import torch
from helpers import MatrixPhysics
from pyro import poutine

from pyro_vble.guides import VBLE, VBLExz
from pyro_vble.models import CAE, RestorationModel


@pytest.mark.parametrize("latent_image", [False, True])
def test_sites_and_plate(cae, denoising, latent_image):
    y = torch.rand(3, 3, 64, 64)
    trace = poutine.trace(RestorationModel(cae, denoising, latent_image=latent_image)).get_trace(y)
    sampled = set(trace.stochastic_nodes) - {"image"}
    assert sampled == {"h", "z"} | ({"x_decentered"} if latent_image else set())
    for name in sampled | {"y"}:
        assert [frame.name for frame in trace.nodes[name]["cond_indep_stack"]] == ["image"]
        assert trace.nodes[name]["fn"].batch_shape == (3,)
    assert trace.nodes["y"]["is_observed"]


def test_log_prob_is_the_formula(cae, denoising):
    """log p(y|x) + log N(e; 0, I) + log p(z|h) + log p(h), x = D(z) + gamma e."""
    y = torch.rand(1, 3, 64, 64)
    model = RestorationModel(cae, denoising, latent_image=True)
    e = torch.randn(1, 3, 64, 64)
    latents = cae.encode(y)
    with torch.no_grad():
        found = poutine.trace(poutine.condition(model, latents | {"x_decentered": e})).get_trace(y).log_prob_sum()
        x = cae.decode_mean(latents["z"]) + cae.gamma * e
        normal = torch.distributions.Normal
        expected = (
            normal(x, 0.1).log_prob(y).sum()
            + normal(0, 1).log_prob(e).sum()
            + cae.p_z(latents["h"]).log_prob(latents["z"]).sum()
            + cae.p_h((3, 64, 64)).log_prob(latents["h"]).sum()
        )
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_unobserved_values_carry_no_likelihood_and_no_gradient(cae, denoising):
    y = torch.rand(1, 3, 64, 64)
    holed = y.clone()
    holed[..., 20:30, 5:50] = torch.nan
    model = RestorationModel(cae, denoising)
    z = cae.encode(y)["z"].requires_grad_()
    trace = poutine.trace(poutine.condition(model, {"z": z})).get_trace(holed)
    trace.compute_log_prob()
    x = trace.nodes["x"]["value"]
    dense = torch.distributions.Normal(x, 0.1).log_prob(y)
    kept = torch.isfinite(holed)
    torch.testing.assert_close(trace.nodes["y"]["log_prob_sum"], dense[kept].sum(), rtol=1e-5, atol=0)
    (gradient,) = torch.autograd.grad(trace.nodes["y"]["log_prob_sum"], x)
    assert (gradient[~kept] == 0).all()
    assert (gradient[kept] != 0).any()


def test_an_inpainting_mask_carries_no_likelihood(cae):
    mask = (torch.rand(1, 64, 64) < 0.5).float().expand(3, 64, 64)
    physics = deepinv.physics.Inpainting((3, 64, 64), mask=mask, noise_model=deepinv.physics.GaussianNoise(0.1))
    y = physics(torch.rand(1, 3, 64, 64))
    trace = poutine.trace(RestorationModel(cae, physics)).get_trace(y)
    trace.compute_log_prob()
    x = trace.nodes["x"]["value"]
    expected = (torch.distributions.Normal(x, 0.1).log_prob(y) * mask).sum()
    assert float(trace.nodes["y"]["log_prob_sum"]) == pytest.approx(float(expected), rel=1e-5)


def test_the_prior_given_is_left_alone(cae, denoising):
    cae.train()
    RestorationModel(cae, denoising)
    assert cae.training
    assert all(p.requires_grad for p in cae.network.g_s.parameters())


def test_particles_and_batch_flatten(cae, denoising):
    y = torch.rand(2, 3, 64, 64)
    for guide_class in (VBLE, VBLExz):
        model = RestorationModel(cae, denoising, latent_image=guide_class.latent_image)
        guide = guide_class(model, y)
        elbo = pyro.infer.Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
        assert torch.isfinite(torch.tensor(elbo.loss(model, guide, y)))


def test_image_shape_can_be_named_where_the_operator_has_no_adjoint(cae):
    matrix = torch.randn(10, 64 * 64 * 3)
    physics = MatrixPhysics(matrix, deepinv.physics.GaussianNoise(0.1))
    y = torch.rand(2, 10)
    with pytest.raises(ValueError, match="image_shape="):
        VBLE(RestorationModel(cae, physics), y)
    model = RestorationModel(cae, physics, image_shape=(3, 64, 64))
    assert VBLE(model, y).loc["z"].shape == (2, 12, 4, 4)


class TestErrors:
    def test_no_prior(self, denoising):
        with pytest.raises(TypeError, match=r"prior must be a generative prior.*received Linear"):
            RestorationModel(torch.nn.Linear(2, 2), denoising)

    def test_no_operator(self, cae):
        with pytest.raises(TypeError, match=r"method A\(x\); received int"):
            RestorationModel(cae, 3)

    def test_loaded_without_operator(self, cae):
        model = RestorationModel(cae, None, image_shape=(3, 64, 64))
        with pytest.raises(ValueError, match="physics=None"):
            model(torch.rand(1, 3, 64, 64))


def test_prior_stays_a_cae(cae, denoising):
    assert isinstance(RestorationModel(cae, denoising).prior, CAE)


def test_noise_by_image_under_as_many_particles(cae):
    class Sums:
        """Five numbers of an image."""

        noise_model = deepinv.physics.GaussianNoise(torch.tensor([0.1, 0.2]))
        img_size = (3, 64, 64)

        def A(self, x):
            return x.flatten(1)[:, :5]

    model = RestorationModel(cae, Sums())
    with pyro.plate("samples", 2, dim=-2):
        trace = poutine.trace(model).get_trace(torch.rand(2, 5))
    scale = trace.nodes["y"]["fn"].base_dist.base_dist.scale
    torch.testing.assert_close(scale, torch.tensor([0.1, 0.2])[:, None].expand(2, 2, 5))
