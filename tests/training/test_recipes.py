import pytest
import yaml

from pyro_vble.training import available_recipes, load_recipe
from pyro_vble.training.construction import build_prior
from pyro_vble.training.recipes import Schedule, parse_recipe
from pyro_vble.training.schedule import Budget, learning_rate


def test_the_recipes_that_come_with_the_package():
    sizes = [f"{domain}-{size}" for domain in ("natural", "aerial") for size in ("cpu", "gpu", "large")]
    expected = {f"{kind}-{size}" for kind in ("cae", "decoder-std") for size in sizes}
    assert set(available_recipes()) == expected | {"vae-mnist", "decoder-std-vae-mnist"}
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
        ({"kind": "gan"}, "kind, one of cae, vae, decoder-std; in .* it is 'gan'"),
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
        build_prior(load_recipe("decoder-std-natural-cpu"))
