import math

import pyro.distributions as dist
import pytest
import torch
from helpers import ARCHITECTURES, linear_vae, small_network
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

from pyro_vble.guides import GaussianEncoder, UniformEncoder
from pyro_vble.inference import DeviceELBO
from pyro_vble.models import CAE, ImageModel, convolutional_vae, networks
from pyro_vble.training import NegativeELBO

ALPHA = 0.025


def rate_distortion_loss(network, x, noise, distortion="mean"):
    """CompressAI's own forward pass and training loss, with the given noise in place of its own."""
    h, z = noise
    network.train()
    # Below 1e-9 CompressAI's likelihoods are constant, ours are not; without that bound the two are one function.
    network.entropy_bottleneck.use_likelihood_bound = network.gaussian_conditional.use_likelihood_bound = False
    network.entropy_bottleneck.quantize = lambda v, *_: v + h.transpose(0, 1).reshape(h.shape[1], 1, -1)
    network.gaussian_conditional.quantize = lambda v, *_, **__: v + z
    out = network(x)
    if distortion == "mean":
        networks.compressai()
        from compressai.losses import RateDistortionLoss

        return RateDistortionLoss(lmbda=ALPHA)(out, x)["loss"]
    pixels = x.shape[0] * x.shape[2] * x.shape[3]
    bits = sum(-likelihood.log2().sum() for likelihood in out["likelihoods"].values())
    return ALPHA * 255**2 * (out["x_hat"] - x).square().sum(1).mean() + bits / pixels


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO, DeviceELBO])
@pytest.mark.parametrize("distortion", ["mean", "sum"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_loss_is_compressais_in_value_and_gradient(architecture, distortion, elbo, monkeypatch):
    """-ELBO per pixel = ln 2 · (alpha·255²·MSE + bits per pixel) + C/2 · log(2 pi gamma²)."""
    network = small_network(architecture).double()
    prior = CAE(network, ALPHA, distortion=distortion)
    x = torch.rand(2, 3, 64, 128, dtype=torch.float64)
    centres = prior.encode(x)
    noise = {site: torch.rand_like(centre) - 0.5 for site, centre in centres.items()}
    draws = iter([noise["h"] + 0.5, noise["z"] + 0.5])
    with monkeypatch.context() as patch:
        patch.setattr(torch, "rand", lambda *_, **__: next(draws))
        loss = elbo(max_plate_nesting=1)(ImageModel(prior), UniformEncoder(prior))(x) / (2 * 64 * 128)
    loss.backward()
    ours = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}

    network.zero_grad()
    reference = rate_distortion_loss(network, x, (noise["h"].detach(), noise["z"].detach()), distortion)
    (math.log(2) * reference).backward()
    constant = 3 / 2 * math.log(2 * math.pi * prior.gamma**2)
    assert loss.item() == pytest.approx(math.log(2) * reference.item() + constant, rel=1e-6)
    theirs = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    assert theirs.keys() - ours.keys() <= {"entropy_bottleneck.quantiles"}
    assert len(ours) > 20
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-5, atol=1e-8 * largest, msg=name)


def test_in_bits_per_pixel():
    prior = CAE(small_network(), ALPHA)
    x = torch.rand(2, 3, 64, 64)
    torch.manual_seed(1)
    bits = NegativeELBO(prior)(x)
    torch.manual_seed(1)
    nats = TraceMeanField_ELBO()(ImageModel(prior), UniformEncoder(prior))(x)
    assert bits.item() == pytest.approx(nats.item() / (2 * 64 * 64 * math.log(2)), rel=1e-6)


def test_a_linear_vae_under_its_exact_posterior_has_its_evidence():
    """With q(z|x) the exact posterior, the ELBO of a linear-Gaussian model is log p(x), whatever is drawn."""
    weight = torch.randn(16, 3, dtype=torch.float64)
    # Orthogonal columns make the posterior's covariance diagonal, which a Gaussian encoder can then be.
    weight = torch.linalg.qr(weight).Q * torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    offset, std = torch.randn(16, dtype=torch.float64), 0.3
    prior = linear_vae(weight, offset, std, (1, 4, 4))
    precision = torch.eye(3, dtype=torch.float64) + weight.T @ weight / std**2

    def exact(x):
        mean = torch.linalg.solve(precision, weight.T @ (x.flatten(1) - offset).T / std**2).T
        return mean, precision.diagonal().rsqrt().expand_as(mean)

    prior.encoder.forward = exact
    x = torch.randn(5, 1, 4, 4, dtype=torch.float64)
    covariance = weight @ weight.T + std**2 * torch.eye(16, dtype=torch.float64)
    evidence = dist.MultivariateNormal(offset, covariance).log_prob(x.flatten(1)).sum()
    elbo = -Trace_ELBO()(ImageModel(prior), GaussianEncoder(prior))(x)
    assert elbo.item() == pytest.approx(evidence.item(), rel=1e-8)


@pytest.mark.parametrize("num_particles", [1, 3])
def test_the_elbo_on_the_device_is_pyros(num_particles):
    """Closed-form KL terms included: z of a VAE has one."""
    prior = convolutional_vae((1, 8, 8), num_latents=2, channels=(3,), decoder_std=0.2)
    x = torch.rand(4, 1, 8, 8)
    results = []
    for elbo in (TraceMeanField_ELBO, DeviceELBO):
        torch.manual_seed(1)
        loss = elbo(num_particles=num_particles)(ImageModel(prior), GaussianEncoder(prior))(x)
        results.append((loss, torch.autograd.grad(loss, list(prior.parameters()))))
    (ours, our_gradient), (pyros, pyros_gradient) = reversed(results)
    torch.testing.assert_close(ours, pyros)
    torch.testing.assert_close(our_gradient, pyros_gradient)


def test_the_encoder_is_a_guide_of_the_restoration_site_names(cae):
    sites = UniformEncoder(cae)(torch.rand(2, 3, 70, 64))
    centres = cae.encode(torch.rand(2, 3, 70, 64))
    assert sites.keys() == centres.keys()
    assert all(sites[site].shape == centres[site].shape for site in sites)


@pytest.mark.parametrize("image_shape", [(1, 28, 28), (3, 64, 64)])
def test_uniform_noise_stays_within_half_a_step(cae, image_shape):
    x = torch.rand(4, *image_shape)
    sites, centres = UniformEncoder(cae)(x), cae.encode(x)
    for site, centre in centres.items():
        distance = (sites[site] - centre).abs().detach()
        assert float(distance.max()) <= 0.5 + 1e-5
        if distance.numel() > 500:
            # Var U(±1/2) = 1/12; the mean of n squares has standard error sqrt(1/180/n).
            error = 5 * math.sqrt(1 / 180 / distance.numel())
            assert float(distance.square().mean()) == pytest.approx(1 / 12, abs=error)
