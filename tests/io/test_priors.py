import hashlib
import importlib.resources
import zipfile

import numpy as np
import pytest
import torch
from helpers import ARCHITECTURES, small_network
from safetensors import safe_open
from safetensors.torch import save_file

import pyro_vble as pv
from pyro_vble.io.checksums import tensors_checksum
from pyro_vble.io.prior_files import save_prior
from pyro_vble.models import CAE, convolutional_vae, networks

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
    """CompressAI's parts and a variance_decoder beside them, alpha in the name."""
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
    monkeypatch.setattr(networks, "zoo_network", lambda name, quality: small_network())
    prior = pv.load_prior("mbt2018-mean/5")
    assert prior.alpha == 0.025
    assert prior.name == "mbt2018-mean/5"


def test_a_failed_download_names_the_way_out(monkeypatch):
    def offline(name, quality):
        raise OSError("no route to host")

    monkeypatch.setattr(networks, "zoo_network", offline)
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
        factorized = networks.compressai().models.FactorizedPrior(8, 12)
        save_file(factorized.state_dict(), tmp_path / "factorized.safetensors")
        with pytest.raises(ValueError, match=r"h_a, h_s is missing"):
            pv.load_prior(tmp_path / "factorized.safetensors", alpha=ALPHA)

    def test_an_encoder_of_another_layout(self):
        state = {f"{part}.0.weight": torch.zeros(1) for part in ("g_a", "g_s", "h_a", "h_s")}
        with pytest.raises(ValueError, match="another layout"):
            networks.network_class(state)

    def test_networks_of_variable_bitrate(self):
        from pyro_vble.models import CAE

        vbr = networks.compressai().models.MeanScaleHyperpriorVbr(8, 12)
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
        # Torch's own words, which differ between its versions.
        with pytest.raises(ValueError, match=r"tensors alone \(UnpicklingError: Weights only load failed"):
            pv.load_prior(tmp_path / "trap.pth", alpha=ALPHA)

    def test_no_state_dict(self, tmp_path):
        torch.save({"state_dict": {"a": 3}}, tmp_path / "p.pth")
        with pytest.raises(ValueError, match="must be a state dict"):
            pv.load_prior(tmp_path / "p.pth", alpha=ALPHA)


def test_a_header_knows_better_than_a_name(tmp_path):
    prior = CAE(small_network(), ALPHA, distortion="mean")
    save_prior(prior, tmp_path / "mbt_0.025_mine.safetensors")
    found = pv.load_prior(tmp_path / "mbt_0.025_mine.safetensors")
    assert found.distortion == "mean"
    assert found.gamma == pytest.approx(prior.gamma)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_prior_is_read_as_it_was_written(dtype, tmp_path):
    from pyro_vble.models import DecoderStd

    network = small_network()
    std = DecoderStd.starting_flat(network.g_s, 0.03, floor=1e-3)
    prior = CAE(network, ALPHA, decoder_std=std)
    save_prior(prior, tmp_path / "prior.safetensors", dtype=dtype)
    again = pv.load_prior(tmp_path / "prior.safetensors")
    assert (again.alpha, again.decoder_std.floor, again.decoder_std.link) == (ALPHA, 1e-3, "sigmoid")
    parameters = dict(prior.named_parameters())
    for key, value in again.state_dict().items():
        if "quantiles" in key or value.numel() == 0:
            continue
        if key in parameters:
            tolerance = {"float32": 0, "float16": 1e-3, "bfloat16": 8e-3}[dtype]
            torch.testing.assert_close(value, parameters[key].detach(), rtol=tolerance, atol=1e-6)
        elif value.numel() == 1:  # bounds and pedestals, down to 1e-9
            assert torch.equal(value, prior.state_dict()[key]), key


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A prior's file, its header and its tensors."""
    path = tmp_path_factory.mktemp("prior") / "prior.safetensors"
    save_prior(CAE(small_network(), ALPHA), path)
    with safe_open(path, framework="pt") as file:
        return path, dict(file.metadata()), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def unchecked(header):
    return {key: value for key, value in header.items() if key != "checksum"}


class TestDamage:
    def test_one_changed_bit_is_noticed(self, written, tmp_path):
        content = bytearray(written[0].read_bytes())
        for position in np.random.default_rng(0).integers(8 + int.from_bytes(content[:8], "little"), len(content), 5):
            content[position] ^= 1
            (tmp_path / "bit.safetensors").write_bytes(content)
            content[position] ^= 1
            with pytest.raises(ValueError, match=r"bit\.safetensors .*not those that were written"):
                pv.load_prior(tmp_path / "bit.safetensors")

    def test_a_tensor_scaled_or_of_another_type_is_noticed(self, written, tmp_path):
        _, header, tensors = written
        key = "g_s.0.weight"
        for other in (tensors[key] * 1e8, tensors[key].double()):
            save_file(tensors | {key: other}, tmp_path / "p.safetensors", metadata=header)
            with pytest.raises(ValueError, match="not those that were written"):
                pv.load_prior(tmp_path / "p.safetensors")

    @pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    def test_weights_that_are_not_finite_are_refused_by_name(self, written, tmp_path, suffix, value):
        _, header, tensors = written
        damaged = {key: tensor.clone() for key, tensor in tensors.items()}
        damaged["g_s.2.weight" if "g_s.2.weight" in damaged else "g_s.0.weight"].flatten()[5] = value
        path = tmp_path / f"p{suffix}"
        if suffix == ".pth":
            torch.save(damaged, path)
        else:
            save_file(damaged, path, metadata=unchecked(header))
        with pytest.raises(ValueError, match=rf"p\{suffix} .*must be finite; 1 of \d+ values of 'g_s\.\d\.weight'"):
            pv.load_prior(path, alpha=ALPHA)

    def test_weights_that_are_not_finite_are_not_written(self, tmp_path):
        prior = CAE(small_network(), ALPHA)
        with torch.no_grad():
            prior.network.g_s[0].weight[0, 0, 0, 0] = 1e6
        save_prior(prior, tmp_path / "whole.safetensors")
        with pytest.raises(ValueError, match="must be finite"):
            save_prior(prior, tmp_path / "half.safetensors", dtype="float16")
        assert [path.name for path in tmp_path.iterdir()] == ["whole.safetensors"]

    @pytest.mark.parametrize("kind", [torch.int8, torch.complex64])
    def test_weights_of_another_kind(self, written, tmp_path, kind):
        tensors = written[2]
        other = tensors["g_s.0.weight"].to(kind)
        torch.save(tensors | {"g_s.0.weight": other}, tmp_path / "p.pth")
        with pytest.raises(ValueError, match=r"p\.pth .*'g_s\.0\.weight' must hold float32 numbers"):
            pv.load_prior(tmp_path / "p.pth", alpha=ALPHA)

    @pytest.mark.parametrize(
        "change",
        [
            {"alpha": "abc"},
            {"alpha": "nan"},
            {"alpha": "-1"},
            {"alpha": "inf"},
            {"std_floor": "-1"},
            {"std_link": "cubic"},
            {"decoder_std": "nan"},
            {"model": "VAE"},
            {"model": "VAE", "network": "{"},
            {"model": "VAE", "network": "[" * 10_000},
            {
                "model": "VAE",
                "network": '{"image_shape": [1, 28, 28], "num_latents": 1000000000, "channels": [9999]}',
            },
            {"model": "VAE", "network": '{"image_shape": [1, 28], "num_latents": 4, "channels": [8]}'},
            {"architecture": "ResNet"},
        ],
    )
    def test_headers(self, written, tmp_path, change):
        _, header, tensors = written
        save_file(tensors, tmp_path / "h.safetensors", metadata=unchecked(header) | change)
        with pytest.raises(ValueError, match=r"h\.safetensors") as caught:
            pv.load_prior(tmp_path / "h.safetensors")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 8 + b"{}", b"\x02" + b"\0" * 7 + b"{}"])
    @pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
    def test_files_of_nothing(self, tmp_path, content, suffix):
        (tmp_path / f"p{suffix}").write_bytes(content)
        with pytest.raises(ValueError, match=rf"p\{suffix}"):
            pv.load_prior(tmp_path / f"p{suffix}", alpha=ALPHA)


class TestCheckpointsOfOthers:
    @pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
    @pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
    def test_prefixes_of_wrappers(self, tmp_path, prefix, suffix):
        network = small_network()
        state = {f"{prefix}{key}": value for key, value in network.state_dict().items()}
        path = tmp_path / f"p{suffix}"
        save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
        assert_same(pv.load_prior(path, alpha=ALPHA), network)

    def test_a_compiled_part(self, tmp_path):
        network = small_network()
        state = {key.replace("g_a.", "g_a._orig_mod."): value for key, value in network.state_dict().items()}
        torch.save(state, tmp_path / "p.pth")
        assert_same(pv.load_prior(tmp_path / "p.pth", alpha=ALPHA), network)

    def test_names_that_meet_without_their_prefixes(self, tmp_path):
        state = small_network().state_dict()
        torch.save(state | {"module.g_a.0.weight": state["g_a.0.weight"]}, tmp_path / "p.pth")
        with pytest.raises(ValueError, match="two weights have the same name"):
            pv.load_prior(tmp_path / "p.pth", alpha=ALPHA)

    @pytest.mark.parametrize(
        "content", [{1: torch.ones(1)}, {(1, 2): torch.ones(1)}, [], {}, 3, {"state_dict": {1: 2}}]
    )
    def test_other_contents(self, tmp_path, content):
        torch.save(content, tmp_path / "p.pth")
        with pytest.raises(ValueError, match=r"must be a state dict.*p\.pth"):
            pv.load_prior(tmp_path / "p.pth", alpha=ALPHA)

    def test_a_file_that_inflates(self, tmp_path):
        """A small archive that claims gigabytes is refused before any of it is unpacked."""
        with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("archive/data.pkl", b"\0" * 1000)
            with file.open("archive/data/0", "w") as member:
                for _ in range(64):
                    member.write(b"\0" * (1 << 20))
        with pytest.raises(ValueError, match=r"bomb\.pth .*claim to hold 67\d{6}"):
            pv.load_prior(tmp_path / "bomb.pth", alpha=ALPHA)

    def test_a_tensor_that_claims_more_memory_than_it_has(self, tmp_path):
        state = small_network().state_dict()
        state["g_a.0.weight"] = torch.zeros(1).expand(1 << 40)
        torch.save(state, tmp_path / "p.pth")
        with pytest.raises(ValueError, match=r"g_a\.0\.weight.* must be of at most 4 GiB"):
            pv.load_prior(tmp_path / "p.pth", alpha=ALPHA)

    def test_a_tensor_that_is_not_dense(self, tmp_path):
        state = small_network().state_dict()
        state["g_a.0.weight"] = state["g_a.0.weight"].to_sparse()
        torch.save(state, tmp_path / "p.pth")
        with pytest.raises(ValueError, match="must be a dense tensor"):
            pv.load_prior(tmp_path / "p.pth", alpha=ALPHA)


class TestArguments:
    @pytest.mark.parametrize("value", ["abc", "", "0" * 63, "0" * 65, "g" * 64])
    def test_checksums_that_are_none(self, written, value):
        for name in ("cae-bsd", written[0]):
            with pytest.raises(ValueError, match="sha256 must be a SHA-256 checksum of 64 hexadecimal digits"):
                pv.load_prior(name, sha256=value)

    @pytest.mark.parametrize("value", [3, b"0" * 64, [], True])
    def test_checksums_of_another_type(self, value):
        with pytest.raises(TypeError, match="sha256 must be"):
            pv.load_prior("cae-bsd", sha256=value)

    def test_checksums_are_compared(self, written):
        right = hashlib.sha256(written[0].read_bytes()).hexdigest()
        assert pv.load_prior(written[0], sha256=right.upper()).alpha == ALPHA
        assert pv.load_prior("cae-bsd", sha256=pv.load_card("cae-bsd")["sha256"]).name == "cae-bsd"
        for name in ("cae-bsd", written[0]):
            with pytest.raises(ValueError, match="must have the checksum 0000"):
                pv.load_prior(name, sha256="0" * 64)

    @pytest.mark.parametrize(
        ("argument", "error"),
        [
            ({"architecture": ""}, ValueError),
            ({"architecture": []}, TypeError),
            ({"architecture": 0}, TypeError),
            ({"distortion": "median"}, ValueError),
            ({"distortion": 1}, TypeError),
            ({"alpha": -1.0}, ValueError),
            ({"alpha": float("nan")}, ValueError),
            ({"alpha": "0.1"}, TypeError),
            ({"rate_scale": 0}, ValueError),
            ({"rate_scale": 1.5}, ValueError),
            ({"rate_scale": ()}, ValueError),
            ({"rate_scale": "auto"}, TypeError),
        ],
    )
    def test_the_others(self, written, argument, error):
        for name in ("cae-bsd", written[0]):
            with pytest.raises(error, match=f"{next(iter(argument))} must be"):
                pv.load_prior(name, **argument)

    @pytest.mark.parametrize("name", [3, None, b"cae-bsd", 1.5, ["cae-bsd"]])
    def test_names_of_another_type(self, name):
        with pytest.raises(TypeError, match="name must be a path"):
            pv.load_prior(name)

    def test_what_does_not_belong_to_a_vae(self):
        with pytest.raises(ValueError, match="alpha is for compressive autoencoders; this is a VAE"):
            pv.load_prior("vae-mnist", alpha=0.1)

    def test_what_does_not_belong_to_the_zoo(self, monkeypatch):
        monkeypatch.setattr(networks, "zoo_network", lambda name, quality: small_network())
        for argument in ({"alpha": 0.1}, {"architecture": "Cheng2020Anchor"}, {"sha256": "0" * 64}):
            with pytest.raises(ValueError, match=f"received {next(iter(argument))}=.*leave it out"):
                pv.load_prior("mbt2018-mean/5", **argument)
        assert pv.load_prior("mbt2018-mean/5", alpha=0.025, architecture="MeanScaleHyperprior").alpha == 0.025

    def test_a_local_files_name_is_found_from_everywhere(self, written, monkeypatch):
        monkeypatch.chdir(written[0].parent)
        assert pv.load_prior("prior.safetensors").name == str(written[0])


@pytest.mark.parametrize("name", pv.available_priors())
def test_bundled_weights_have_their_checksum(name):
    with safe_open(importlib.resources.files("pyro_vble.weights") / f"{name}.safetensors", framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        assert file.metadata()["checksum"] == tensors_checksum(tensors)


@pytest.mark.parametrize("kind", ["CAE", "VAE"])
def test_a_standard_deviation_of_ones_own_is_not_written(kind, tmp_path):
    std = torch.nn.Flatten()
    if kind == "CAE":
        prior = CAE(small_network(), decoder_std=std)
    else:
        prior = convolutional_vae((1, 28, 28), num_latents=8, channels=(4, 8), decoder_std=std)
    with pytest.raises(TypeError, match=r"must be a DecoderStd.*received a Flatten of your own"):
        save_prior(prior, tmp_path / "prior.safetensors")
    assert not list(tmp_path.iterdir())


class TestMetadata:
    @pytest.mark.parametrize("key", ["alpha", "model", "network", "checksum", "std_floor"])
    def test_what_says_what_the_prior_is_is_not_overwritten(self, cae, tmp_path, key):
        with pytest.raises(ValueError, match=f"say nothing of the prior itself; received {key}"):
            save_prior(cae, tmp_path / "x.safetensors", metadata={key: 0.5, "mine": 1})
        assert not (tmp_path / "x.safetensors").exists()

    @pytest.mark.parametrize(
        "said",
        [
            {"network": "mbt"},
            {"checksum": "abc"},
            {"architecture": "mbt2018-mean"},
            {"alpha": 0},
            {"alpha": True},
            {"model": "x"},
        ],
    )
    def test_what_others_mean_by_their_names_is_not_believed(self, tmp_path, said):
        network = small_network()
        torch.save({"state_dict": network.state_dict(), **said}, tmp_path / "theirs.pth")
        prior = pv.load_prior(tmp_path / "theirs.pth", alpha=ALPHA)
        assert prior.alpha == ALPHA
        assert type(prior.network) is type(network)
