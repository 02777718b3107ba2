import pytest
import torch
from helpers import ARCHITECTURES, small_network
from safetensors.torch import save_file

import pyro_vble as pv
from pyro_vble.models import CAE, _compressai

ALPHA = 0.0483


def assert_same(prior, network):
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(prior.encode(x)["z"], network.g_a(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pth.tar"])
def test_checkpoints_of_every_class(architecture, suffix, tmp_path):
    network = small_network(architecture)
    path = tmp_path / f"prior{suffix}"
    if suffix == ".safetensors":
        save_file(network.state_dict(), path, metadata={"alpha": str(ALPHA)})
        prior = pv.load_prior(path)
    else:
        torch.save({"state_dict": network.state_dict(), "epoch": 3}, path)
        prior = pv.load_prior(path, alpha=ALPHA)
    assert type(prior.network).__name__ == architecture
    assert prior.alpha == ALPHA
    assert prior.distortion == "mean"
    assert_same(prior, network)


def test_the_layout_of_the_published_weights(tmp_path):
    """The layout that FACTS describes: CompressAI's parts and a variance_decoder beside them, alpha in the name."""
    network = small_network("JointAutoregressiveHierarchicalPriors")
    state = network.state_dict()
    state |= {f"variance_decoder.{k}": v + 0.01 for k, v in network.g_s.state_dict().items()}
    path = tmp_path / "mbt_0.0483_bsd_std-diagonal.pth"
    torch.save(state, path)
    prior = pv.load_prior(path)
    assert prior.alpha == ALPHA
    assert prior.distortion == "sum"
    assert prior.gamma == pytest.approx(0.01516, abs=1e-5)
    z = torch.randn(1, 12, 4, 4)
    with torch.no_grad():
        mean, std = prior.decode(z)
        torch.testing.assert_close(mean, network.g_s(z))
        network.g_s.load_state_dict({k: v + 0.01 for k, v in network.g_s.state_dict().items()})
        torch.testing.assert_close(std, torch.sigmoid(network.g_s(z)) + 2e-4)


def test_data_parallel_prefixes(tmp_path):
    network = small_network()
    torch.save({f"module.{k}": v for k, v in network.state_dict().items()}, tmp_path / "p.pt")
    assert_same(pv.load_prior(tmp_path / "p.pt", alpha=ALPHA), network)


def test_the_bundled_prior():
    assert "cae-bsd" in pv.available_priors()
    prior = pv.load_prior("cae-bsd")
    assert prior.name == "cae-bsd"
    assert prior.gamma == pytest.approx(0.0365, abs=1e-4)
    assert pv.load_prior("cae-bsd", rate_scale=0.5).rate_scale == 0.5


def test_zoo_names_download_with_the_bitrate_parameter_of_the_quality(monkeypatch):
    monkeypatch.setattr(_compressai, "zoo_network", lambda name, quality: small_network())
    prior = pv.load_prior("mbt2018-mean/5")
    assert prior.alpha == 0.025
    assert prior.name == "mbt2018-mean/5"


def test_a_failed_download_names_the_way_out(monkeypatch):
    def offline(name, quality):
        raise OSError("no route to host")

    monkeypatch.setattr(_compressai, "zoo_network", offline)
    with pytest.raises(ConnectionError, match=r"no route to host.*alpha=0.0483"):
        pv.load_prior("mbt2018/6")


class TestErrors:
    def test_unknown_names(self):
        with pytest.raises(ValueError, match=r"bundled name \(.*cae-bsd.*\).*received 'cae-moon'"):
            pv.load_prior("cae-moon")

    @pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
    def test_truncated_files(self, suffix, tmp_path):
        whole, path = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
        state = small_network().state_dict()
        save_file(state, whole) if suffix == ".safetensors" else torch.save(state, whole)
        path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        with pytest.raises(ValueError, match=r"may be\s+truncated"):
            pv.load_prior(path, alpha=ALPHA)

    def test_a_checkpoint_of_another_class(self, tmp_path):
        factorized = _compressai.compressai().models.FactorizedPrior(8, 12)
        save_file(factorized.state_dict(), tmp_path / "factorized.safetensors")
        with pytest.raises(ValueError, match=r"h_a, h_s is missing"):
            pv.load_prior(tmp_path / "factorized.safetensors", alpha=ALPHA)

    def test_an_encoder_of_another_layout(self):
        state = {f"{part}.0.weight": torch.zeros(1) for part in ("g_a", "g_s", "h_a", "h_s")}
        with pytest.raises(ValueError, match="another layout"):
            _compressai.network_class(state)

    def test_networks_of_variable_bitrate(self):
        from pyro_vble.models import CAE

        vbr = _compressai.compressai().models.MeanScaleHyperpriorVbr(8, 12)
        with pytest.raises(TypeError, match="gains it would ignore"):
            CAE(vbr, ALPHA)

    def test_weights_that_do_not_fit_the_named_class(self, tmp_path):
        save_file(small_network().state_dict(), tmp_path / "p.safetensors")
        with pytest.raises(ValueError, match="look like MeanScaleHyperprior and were to be loaded as ScaleHyperprior"):
            pv.load_prior(tmp_path / "p.safetensors", alpha=ALPHA, architecture="ScaleHyperprior")
        with pytest.raises(ValueError, match="architecture must be one of"):
            pv.load_prior(tmp_path / "p.safetensors", alpha=ALPHA, architecture="ResNet")

    def test_a_missing_alpha(self, tmp_path):
        save_file(small_network().state_dict(), tmp_path / "p.safetensors")
        with pytest.raises(ValueError, match=r"pass alpha="):
            pv.load_prior(tmp_path / "p.safetensors")

    def test_pickles_are_not_run(self, tmp_path):
        class Trap:
            def __reduce__(self):
                return (print, ("ran",))

        torch.save({"state_dict": Trap()}, tmp_path / "trap.pth")
        with pytest.raises(ValueError, match="weights_only=True"):
            pv.load_prior(tmp_path / "trap.pth", alpha=ALPHA)

    def test_no_state_dict(self, tmp_path):
        torch.save({"state_dict": {"a": 3}}, tmp_path / "p.pth")
        with pytest.raises(ValueError, match="must be a state dict"):
            pv.load_prior(tmp_path / "p.pth", alpha=ALPHA)


def test_a_header_knows_better_than_a_name(tmp_path):
    from pyro_vble.io.prior_files import save_prior

    prior = CAE(small_network(), ALPHA, distortion="mean")
    save_prior(prior, tmp_path / "mbt_0.025_mine.safetensors")
    found = pv.load_prior(tmp_path / "mbt_0.025_mine.safetensors")
    assert found.distortion == "mean"
    assert found.gamma == pytest.approx(prior.gamma)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_prior_is_read_as_it_was_written(dtype, tmp_path):
    from pyro_vble.io.prior_files import save_prior
    from pyro_vble.models import StandardDeviationDecoder

    network = small_network()
    std = StandardDeviationDecoder.starting_flat(network.g_s, 0.03, floor=1e-3)
    prior = CAE(network, ALPHA, variance_decoder=std)
    save_prior(prior, tmp_path / "prior.safetensors", dtype=dtype)
    again = pv.load_prior(tmp_path / "prior.safetensors")
    assert (again.alpha, again.variance_decoder.floor, again.variance_decoder.link) == (ALPHA, 1e-3, "sigmoid")
    parameters = dict(prior.named_parameters())
    for key, value in again.state_dict().items():
        if "quantiles" in key or value.numel() == 0:
            continue
        if key in parameters:
            tolerance = {"float32": 0, "float16": 1e-3, "bfloat16": 8e-3}[dtype]
            torch.testing.assert_close(value, parameters[key].detach(), rtol=tolerance, atol=1e-6)
        elif value.numel() == 1:  # bounds and pedestals, down to 1e-9
            assert torch.equal(value, prior.state_dict()[key]), key
