"""Direct inversion networks: architecture, training on simulated pairs, and files."""

import deepinv
import pytest
import torch
from typer.testing import CliRunner

from pyro_vble.baselines import direct, load_direct, train_direct
from pyro_vble.baselines.rdn import RDN
from pyro_vble.cli.app import app
from pyro_vble.io.images import write_image
from pyro_vble.physics import OpticalSensor

SMALL = {"features": 8, "growth": 8, "num_blocks": 2, "layers": 2}


@pytest.fixture
def folder(tmp_path):
    """Images of squares, large and small."""
    generator = torch.Generator().manual_seed(0)
    for k in range(4):
        x = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 6, generator=generator), scale_factor=8)[0]
        write_image(tmp_path / f"{k}.png", x)
    return tmp_path


def test_the_published_rdn_has_as_many_weights_as_published():
    # 22 million for x2 (Zhang et al., 2018; 22,123,395 with three bands), by its D=16, C=8, G=64.
    assert sum(p.numel() for p in RDN(scale=2).parameters()) == pytest.approx(22.12e6, rel=0.005)


def test_each_layer_of_a_block_sees_all_before_it():
    network = RDN(**SMALL)
    block = network.blocks[0]
    assert [layer.in_channels for layer in block.layers] == [8, 16]
    with torch.no_grad():
        block.fusion.weight.zero_()
        block.fusion.bias.zero_()
    x = torch.rand(1, 8, 5, 5)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize(("architecture", "settings"), [("rdn", SMALL), ("srresnet", {"feats": 16, "num_blocks": 1})])
def test_training_learns_to_restore_and_its_file_is_the_network(folder, tmp_path, architecture, settings):
    physics = OpticalSensor(torch.ones(4, 4) / 16, scale=2, noise_model=deepinv.physics.GaussianNoise(0.02))
    path = tmp_path / "network.safetensors"
    sizes = {"scale": 2, "crop": 16, "batch_size": 4, "lr": 3e-3, "seed": 0, "progress": False, "device": "cpu"}
    arguments = {"architecture": architecture, "settings": settings, **sizes}
    network = train_direct(folder, physics, path, num_steps=250, **arguments)
    x = torch.nn.functional.interpolate(
        torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(9)), scale_factor=8
    )
    y = physics(x)
    found = direct(y, physics, path).mmse_x()
    torch.testing.assert_close(found, network(y))
    blind = float((x - x.mean()).square().mean())
    assert float((found - x).square().mean()) < 0.5 * blind
    again = train_direct(folder, physics, num_steps=3, **arguments)
    same = train_direct(folder, physics, num_steps=3, **arguments)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), same.parameters(), strict=True))


def test_another_scale_a_missing_value_and_another_file_are_told(folder, tmp_path):
    physics = OpticalSensor(torch.ones(4, 4) / 16, scale=2, noise_model=deepinv.physics.GaussianNoise(0.02))
    with pytest.raises(ValueError, match="scale must be how many times"):
        train_direct(folder, physics, architecture="rdn", settings=SMALL, crop=16, num_steps=1, progress=False)
    y = torch.rand(1, 3, 8, 8)
    y[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="y must be whole"):
        direct(y, physics, RDN(scale=2, **SMALL))
    (tmp_path / "other.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="must be a network that train_direct wrote"):
        load_direct(tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError, match="There is no network"):
        direct(torch.rand(1, 3, 8, 8), physics, tmp_path / "missing.safetensors")
    with pytest.raises(ValueError, match="power of 2"):
        RDN(scale=3)


def test_the_command_trains_and_writes(folder, tmp_path):
    output = tmp_path / "out.safetensors"
    sizes = ["--crop", "32", "--batch", "1", "--steps", "1", "--scale", "2", "--device", "cpu"]
    outcome = CliRunner().invoke(app, ["train", "direct", "--data", str(folder), "--output", str(output), *sizes])
    assert outcome.exit_code == 0, outcome.output
    assert load_direct(output)(torch.rand(1, 3, 8, 8)).shape == (1, 3, 16, 16)
