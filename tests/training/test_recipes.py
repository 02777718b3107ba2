import pytest
import torch
import yaml

from pyro_vble.models import DecoderStd, Prior, convolutional_vae
from pyro_vble.models.freezing import frozen, is_for_inference
from pyro_vble.training import available_recipes, load_recipe
from pyro_vble.training.construction import build_prior
from pyro_vble.training.recipes import Schedule, parse_recipe
from pyro_vble.training.schedule import Budget, learning_rate


def test_the_recipes_that_come_with_the_package():
    sizes = [f"{domain}-{size}" for domain in ("natural", "aerial") for size in ("cpu", "gpu", "large")]
    expected = {f"{kind}-{size}" for kind in ("cae", "decoder_std") for size in sizes}
    assert set(available_recipes()) == expected | {"vae-mnist", "decoder_std-vae-mnist"}
    for name in available_recipes():
        recipe = load_recipe(name)
        assert parse_recipe(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize(
    ("size", "architecture", "channels"),
    [
        ("cpu", "MeanScaleHyperprior", (64, 128)),
        ("gpu", "MeanScaleHyperprior", (128, 192)),
        ("large", "JointAutoregressiveHierarchicalPriors", (192, 320)),
    ],
)
def test_sizes(size, architecture, channels):
    for domain in ("natural", "aerial"):
        network = load_recipe(f"cae-{domain}-{size}").network
        assert (network.architecture, (network.N, network.M)) == (architecture, channels)


CAE = {
    "kind": "cae",
    "network": {"architecture": "MeanScaleHyperprior", "N": 8, "M": 12},
    "alpha": 0.025,
    "data": {"crop": 64},
    "schedule": {"steps": 10, "lr": 1e-3},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "gan"}, "kind, one of cae, vae, decoder_std; in .* it is 'gan'"),
        ({"bitrate": 3}, "bitrate: Extra inputs are not permitted"),
        ({"alpha": -1}, r"alpha: Input should be greater than 0 \(received -1\)"),
        ({"alpha": "much"}, r"alpha: .*valid number.*\(received 'much'\)"),
        ({"data": {"crop": 65}}, "data.crop must be a multiple of the network's stride 64; received 65"),
        ({"data": {"crop": 64, "downscale": [2.0]}}, r"data: .*factors in \(0, 1\]"),
        ({"data": {"crop": 64, "colour": True}}, "data.colour: Extra inputs"),
        ({"schedule": {"lr": 1e-3}}, "schedule.steps: Field required"),
        ({"schedule": {"steps": 1, "lr": 1e-3, "warmup": 1.5}}, "schedule.warmup: .*less than 1"),
        ({"network": {"architecture": "MeanScaleHyperprior", "N": 8}}, "M is needed"),
        ({"network": {"architecture": "Cheng2020Anchor", "N": 8, "M": 9}}, "M is needed, except by the Cheng2020"),
        ({"network": {"architecture": "Transformer", "N": 8, "M": 9}}, "network.architecture"),
    ],
)
def test_a_wrong_key_is_named(tmp_path, change, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(CAE | change))
    with pytest.raises(ValueError, match=message):
        load_recipe(path)


def test_files_that_are_no_recipes(tmp_path):
    with pytest.raises(ValueError, match=r"A recipe is one of cae-aerial-cpu.*received 'cae-lunar'"):
        load_recipe("cae-lunar")
    (tmp_path / "a.yaml").write_text("kind: [cae")
    with pytest.raises(ValueError, match="must be YAML"):
        load_recipe(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("just words")
    with pytest.raises(ValueError, match="kind"):
        load_recipe(tmp_path / "b.yaml")


@pytest.mark.parametrize(
    "text",
    [
        b"kind: cae\nx: 2001-99-99",
        b"\xff\xfe\x00kind",
        b"\x80abc",
        b"kind: !!bool maybe",
        b"kind: !!timestamp abc",
        b"{" * 2000,
        b"? " * 2000,
        b"kind: !!python/object/apply:os.system [true]",
        b"kind: !!int abc",
        b"kind: !!float [1]",
        b"kind: !!binary '\xc3\xa4'",
        b"a: &a [*b]",
        b"\t- a",
        b"{[a]: 3}",
        b"kind: cae\x00",
        b"",
    ],
)
def test_whatever_yaml_says_of_a_file_names_it(tmp_path, text):
    (tmp_path / "a.yaml").write_bytes(text)
    with pytest.raises(ValueError, match=r"a\.yaml") as caught:
        load_recipe(tmp_path / "a.yaml")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 10)}]\n" for old, new in zip("abcdefghij", "bcdefghijk", strict=True)
)


@pytest.mark.parametrize("key", ["kind", "alpha", "network", "data", "unknown"])
def test_aliases_that_would_expand_to_gigabytes_are_not_printed(tmp_path, key):
    rest = "".join(f"{k}: {v}\n" for k, v in CAE.items() if k != key)
    (tmp_path / "a.yaml").write_text(BOMB + rest + f"{key}: *k\n")
    with pytest.raises(ValueError, match=r"a\.yaml") as caught:
        load_recipe(tmp_path / "a.yaml")
    assert len(str(caught.value)) < 2000


def test_many_problems_are_cut_short():
    content = CAE | {f"key{k}": "x" * 1000 for k in range(1000)} | {"data": {"downscale": ["a"] * 1000}}
    with pytest.raises(ValueError, match=r"more\.$") as caught:
        parse_recipe(content)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    "change",
    [
        {"alpha": True},
        {"alpha": "0.025"},
        {"alpha": 10**400},
        {"seed": 2**70},
        {"seed": 1.0},
        {"compile": 1},
        {"network": {"architecture": "MeanScaleHyperprior", "N": 10**9, "M": 12}},
        {"network": {"architecture": "MeanScaleHyperprior", "N": True, "M": 12}},
        {"network": {"architecture": "MeanScaleHyperprior", "N": 8.0, "M": 12}},
        {"data": {"crop": "64"}},
        {"data": {"crop": 64, "downscale": 1.0}},
        {"data": {"crop": 64, "downscale": []}},
        {"data": {"crop": 64, "scale": float("inf")}},
        {"data": None},
        {"schedule": {"steps": 10, "lr": float("nan")}},
        {"schedule": {"steps": 10**30, "lr": 1e-3}},
        {"schedule": {"steps": 10, "lr": 1e-3, "minutes": -1}},
        {"schedule": [1, 2]},
        {1: 2},
        {"x" * 10_000: 2},
    ],
)
def test_values_of_another_kind_or_size(change):
    with pytest.raises(ValueError, match="cannot be followed") as caught:
        parse_recipe(CAE | change)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("content", [None, 3, "cae", [], {}, {"kind": None}, {"kind": []}, {"kind": {"cae": 1}}])
def test_what_is_no_recipe(content):
    with pytest.raises(ValueError, match="A recipe has a key kind"):
        parse_recipe(content)


def test_a_mapping_that_holds_itself():
    content = dict(CAE)
    content["data"] = content
    with pytest.raises(ValueError, match="cannot be followed"):
        parse_recipe(content)


@pytest.mark.parametrize("name", [3, None, b"cae-natural-cpu", 1.5, []])
def test_names_of_another_type(name):
    with pytest.raises(TypeError, match="name must be a path"):
        load_recipe(name)


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_names_of_nothing(name):
    with pytest.raises(ValueError, match="name must be a path"):
        load_recipe(name)


def test_numbers_as_yaml_writes_them(tmp_path):
    """YAML takes 1e-3 for a word; a recipe takes it for a number all the same."""
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(CAE).replace("lr: 0.001", "lr: 1e-3"))
    assert load_recipe(tmp_path / "a.yaml").schedule.lr == 1e-3


class TestSchedule:
    schedule = Schedule(steps=100, lr=1.0, warmup=0.1, final=0.1)

    def test_rises_then_falls_to_the_final_rate(self):
        rates = [learning_rate(self.schedule, part / 1000) for part in range(1001)]
        assert max(rates) == rates[100] == 1.0
        assert rates[:101] == sorted(rates[:101])
        assert rates[100:] == sorted(rates[100:], reverse=True)
        assert rates[-1] == pytest.approx(0.1)
        assert min(rates) > 0

    def test_time_and_steps_are_fractions_alike(self):
        assert Budget(steps=10).fraction(5, 1e9) == 0.5
        assert Budget(seconds=60.0).fraction(10**9, 30.0) == 0.5
        assert Budget(seconds=-1.0).fraction(0, 0.0) == 1.0


def test_the_same_seed_builds_the_same_prior():
    a, b = (build_prior(parse_recipe(CAE)) for _ in range(2))
    assert all((p == q).all() for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_a_prior_to_start_from_must_have_the_network(cae, bundled):
    assert (build_prior(parse_recipe(CAE), cae).network.g_a[0].weight == cae.network.g_a[0].weight).all()
    with pytest.raises(ValueError, match="must have the recipe's network"):
        build_prior(parse_recipe(CAE), bundled)
    with pytest.raises(ValueError, match=r"belongs to a trained prior.*--init"):
        build_prior(load_recipe("decoder_std-natural-cpu"))


def test_standard_deviations_of_a_prior_of_ones_own_are_refused():
    class Own(Prior):
        latent = decode_mean = decode_std = encode = validate_image_shape = None

    with pytest.raises(ValueError, match="of a CAE or a VAE; received a Own"):
        build_prior(load_recipe("decoder_std-natural-cpu"), Own())


@pytest.mark.parametrize("kind", ["cae", "vae"])
def test_standard_deviations_of_a_frozen_prior_start_flat_and_can_be_trained(kind, cae):
    """As that of a posterior is, whose layers compute from what was derived from their weights."""
    recipe = parse_recipe(
        {"kind": "decoder_std", "data": {"crop": 64, "batch_size": 2}, "schedule": {"steps": 6, "lr": 1e-3}}
    )
    prior = cae if kind == "cae" else convolutional_vae((3, 64, 64), channels=[8, 8], decoder_std=0.1)
    found = [build_prior(recipe, init) for init in (prior, frozen(prior))]
    assert not any(is_for_inference(part) for part in found[1].modules())
    for built in found:
        z = built.encode(torch.rand(1, 3, 64, 64))["z"]
        std = built.decode_std(z, (3, 64, 64))
        torch.testing.assert_close(std, torch.full_like(std, float(prior.decode_std(z, (3, 64, 64)).mean())))


def test_a_frozen_prior_keeps_its_scale_and_type(cae):
    recipe = parse_recipe(
        {"kind": "decoder_std", "data": {"crop": 64, "batch_size": 2}, "schedule": {"steps": 6, "lr": 1e-3}}
    )
    for init in (cae.with_rate_scale(0.5).double(), frozen(cae.with_rate_scale(0.5)).double()):
        built = build_prior(recipe, init)
        assert built.rate_scale == 0.5
        assert built.tensor_options()["dtype"] == torch.float64


def test_a_decoder_whose_last_layer_is_unknown_has_no_flat_start():
    with pytest.raises(ValueError, match="whose last layer is a convolution"):
        DecoderStd.starting_flat(torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3)), 0.1)
