import hashlib
import importlib.resources
import json

import pytest

import pyro_vble as pv
from pyro_vble.models import CAE
from pyro_vble.training import evaluate, read_images
from pyro_vble.training.evaluation import predicts_std

WEIGHTS = importlib.resources.files("pyro_vble.weights")


@pytest.mark.parametrize("name", pv.available_priors())
def test_every_bundled_prior_has_a_card_of_its_own_weights(name):
    card, prior = pv.load_card(name), pv.load_prior(name)
    file = WEIGHTS / card["file"]
    assert hashlib.sha256(file.read_bytes()).hexdigest() == card["sha256"]
    assert len(file.read_bytes()) == card["bytes"]
    assert card["model"] == type(prior).__name__
    assert card["parameters"] == sum(p.numel() for p in prior.parameters())
    assert (card["measured"]["calibration"] is not None) == predicts_std(prior)
    for key in ("architecture", "images_of", "data", "licence_of_data", "measured_on", "training", "versions"):
        assert key in card
    if isinstance(prior, CAE):
        assert card["alpha"] == prior.alpha
        # Half the bits of every weight do not show.
        assert card["measured"]["psnr"] == pytest.approx(card["measured_before_rounding"]["psnr"], abs=0.02)


def test_the_package_stays_small():
    assert sum(len(f.read_bytes()) for f in WEIGHTS.iterdir() if f.is_file()) < 50e6


def test_a_cards_figures_are_found_again(bundled, shared_data):
    """On some of the images; the card's are means over all of them, and no image is far from the rest's."""
    card = pv.load_card("cae-bsd")
    images = read_images(sorted((shared_data / "bsd" / "test47").glob("*.jpg"))[::6])
    result = evaluate(bundled, (images.middle(i, 256, 64) for i in range(len(images.images))))
    # PSNRs of these 47 images have a standard deviation below 4 dB: three standard errors of a mean of eight.
    assert result.psnr == pytest.approx(card["measured"]["psnr"], abs=3 * 4 / 8**0.5)
    assert result.psnr_quantised < result.psnr


def test_no_such_card():
    with pytest.raises(ValueError, match=r"those of bundled priors.*received 'cae-lunar'"):
        pv.load_card("cae-lunar")


def test_cards_are_plain_json():
    for name in pv.available_priors():
        assert json.dumps(pv.load_card(name), allow_nan=False)
