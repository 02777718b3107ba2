"""From a recipe to a prior, with the parameters that it trains switched on."""

import copy
import tempfile
from pathlib import Path
from typing import TypeGuard

import torch
from torch import nn

from pyro_vble.io.prior_files import save_prior
from pyro_vble.io.priors import load_prior
from pyro_vble.models import (
    CAE,
    VAE,
    DecoderStd,
    LearnedStandardDeviation,
    Prior,
    convolutional_vae,
    grown,
    networks,
)
from pyro_vble.models.freezing import is_for_inference
from pyro_vble.models.gdn import fuse_gdn
from pyro_vble.models.masked import mask_in_place
from pyro_vble.models.transposed import apart_biases
from pyro_vble.seeding import seeded
from pyro_vble.training.checkpoint import TrainingState
from pyro_vble.training.optimisers import optimiser_of
from pyro_vble.training.recipes import CAERecipe, DecoderStdRecipe, Recipe, VAERecipe


def build_prior(
    recipe: Recipe, init: Prior | None = None, init_std: Prior | None = None, *, grow: bool = False
) -> Prior:
    """The prior that a recipe trains: random weights, or those of ``init``, with ``init_std``'s standard deviations.

    With ``grow`` those of ``init`` may be of a smaller network. A decoder of standard deviations to start from may
    always be of one.

    Raises:
        ValueError: If init is missing where it is needed, or is not the prior that the recipe trains; or if init_std
            has no decoder of standard deviations to start from, or the recipe trains none.
    """
    if init_std is not None and not isinstance(recipe, DecoderStdRecipe):
        raise ValueError(
            f"Only recipes of kind decoder_std train standard deviations; received init_std with one of {recipe.kind}; "
            "leave it out."
        )
    with seeded(recipe.seed):
        if isinstance(recipe, DecoderStdRecipe):
            return _with_decoder_std(recipe, init, init_std)
        return _cae(recipe, init, grow) if isinstance(recipe, CAERecipe) else _vae(recipe, init)


def trained_parameters(recipe: Recipe, prior: Prior) -> list[nn.Parameter]:
    """Switch gradients on for what the recipe trains and off for the rest; returns the former.

    Step one of a prior is everything that the ELBO depends on; step two the decoder of standard deviations alone, for
    which the ELBO is a Gaussian log-likelihood and constants.
    """
    trained = prior.decoder_std if isinstance(recipe, DecoderStdRecipe) else prior
    prior.requires_grad_(False)
    if isinstance(trained, nn.Module):
        trained.requires_grad_(True)
    if isinstance(prior, CAE):
        # The quantiles only serve the codec, which solves for them when the prior is written.
        prior.network.entropy_bottleneck.quantiles.requires_grad_(False)
    return [parameter for parameter in prior.parameters() if parameter.requires_grad]


def initial_state(recipe: Recipe, prior: Prior, device: torch.device) -> TrainingState:
    """A training that has not begun: the prior on its device, laid out for convolutions, its average and optimiser."""
    prior = prior.to(device).to(memory_format=torch.channels_last)
    fuse_gdn(prior)
    mask_in_place(prior)
    if device.type == "cpu":
        apart_biases(prior)
    parameters = trained_parameters(recipe, prior)
    average = copy.deepcopy(prior).requires_grad_(False)
    if recipe.compile:
        for part in _networks(prior):
            part.compile(dynamic=False)  # crops all have one size; the first batch seen is not of theirs
    skipped, in_a_row, most_in_a_row = (torch.zeros((), device=device) for _ in range(3))
    optimiser = optimiser_of(recipe.schedule, parameters)
    return TrainingState(recipe, prior, average, optimiser, skipped, in_a_row, most_in_a_row)


def _networks(prior: Prior) -> list[torch.nn.Module]:
    """The wide networks of a prior, which compilation is worth for."""
    parts: list[nn.Module] = []
    if isinstance(prior, CAE):
        parts = [prior.network.g_a, prior.network.g_s]
    elif isinstance(prior, VAE):
        parts = [prior.encoder, prior.decoder]
    std = prior.decoder_std
    return [*parts, std.network] if isinstance(std, DecoderStd) else parts


def _cae(recipe: CAERecipe, init: Prior | None, grow: bool) -> CAE:
    sizes = recipe.network.N, recipe.network.M
    if grow and isinstance(init, CAE):
        init = grown(init, *sizes, seed=recipe.seed)
    network = networks.new_network(recipe.network.architecture, *sizes)
    if init is not None:
        source = init.network if isinstance(init, CAE) else init
        _take_weights(network, source, f"the recipe's network ({recipe.network})")
    return CAE(network, recipe.alpha)


def _vae(recipe: VAERecipe, init: Prior | None) -> VAE:
    start = getattr(init, "decoder_std", None)
    start = start if isinstance(start, float) else recipe.decoder_std
    std = LearnedStandardDeviation(start) if recipe.learn_decoder_std else recipe.decoder_std
    prior = convolutional_vae(**recipe.network.model_dump(), decoder_std=std)
    if init is not None:
        for part in ("encoder", "decoder"):
            _take_weights(getattr(prior, part), getattr(init, part, init), f"the recipe's network ({recipe.network})")
    return prior


def _with_decoder_std(recipe: DecoderStdRecipe, init: Prior | None, init_std: Prior | None) -> Prior:
    if init is None:
        raise ValueError(
            "A decoder of standard deviations belongs to a trained prior, whose latents it decodes; received none; "
            "pass --init with its name or file."
        )
    init = _trainable(init)
    if isinstance(init, CAE):
        std = _start_of_std(recipe, _as_wide(init_std, init), init.decoder_std, init.network.g_s, init.gamma)
        how = {"distortion": init.distortion, "rate_scale": init.rate_scale}
        return CAE(init.network, init.alpha, decoder_std=std, **how)
    if not isinstance(init, VAE):
        raise ValueError(
            f"Standard deviations are trained of a CAE or a VAE; received a {type(init).__name__}; give your prior a "
            "decoder_std of its own."
        )
    value = (
        init.decoder_std.value.item() if isinstance(init.decoder_std, LearnedStandardDeviation) else init.decoder_std
    )
    std = _start_of_std(recipe, init_std, value, init.decoder, value)
    prior = VAE(init.encoder, init.decoder, init.latent_shape, std)
    prior.architecture = init.architecture
    return prior


def _trainable(prior: Prior) -> Prior:
    """A copy of a prior, of layers that can be trained where it has some that are for inference alone."""
    if not any(is_for_inference(part) for part in prior.modules()):
        return copy.deepcopy(prior)
    # A file holds weights and names, which are those of the layers that were exchanged.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "prior.safetensors")
        try:
            save_prior(prior, path)
        except TypeError as error:
            raise ValueError(
                "Layers that are for inference alone cannot be trained, nor networks of your own be built again; pass "
                "the prior as it was before it was frozen."
            ) from error
        copied = load_prior(path)
    copied = copied.with_rate_scale(prior.rate_scale) if isinstance(copied, CAE) and isinstance(prior, CAE) else copied
    return copied.to(**prior.tensor_options())


def _start_of_std(
    recipe: DecoderStdRecipe, init_std: Prior | None, own: object, decoder: nn.Module, value: object
) -> DecoderStd:
    """Another prior's decoder of standard deviations; or the prior's own, if of the recipe's kind; or a flat one."""
    if init_std is not None:
        other = init_std.decoder_std
        if _of_kind(other, recipe):
            std = DecoderStd(copy.deepcopy(decoder), recipe.link, recipe.floor)
            _take_weights(std, other, "the layers of the decoder of --init", option="--init-std")
            return std
        raise ValueError(
            f"A decoder of standard deviations to start from must have the recipe's link and floor ({recipe.link}, "
            f"{recipe.floor:g}); received {_kind_in_words(other)}; change the recipe or leave out --init-std."
        )
    if _of_kind(own, recipe):
        return own
    if not isinstance(value, float | int):
        raise ValueError(
            "A decoder of standard deviations starts at the prior's one standard deviation of all pixels, and this one "
            f"has none (received {type(own).__name__}); build the prior with alpha=... (CAE) or a number (VAE)."
        )
    return DecoderStd.starting_flat(decoder, float(value), recipe.link, recipe.floor)


def _as_wide(prior: Prior | None, init: CAE) -> Prior | None:
    """A prior to take the decoder of standard deviations from, grown to the size of ``init`` if it is a smaller one."""
    if not isinstance(prior, CAE) or type(prior.network) is not type(init.network):
        return prior
    before, after = ((p.network.N, p.network.M) for p in (prior, init))
    if before == after or any(a < b for a, b in zip(after, before, strict=True)):
        return prior
    return grown(prior, *after)


def _of_kind(std: object, recipe: DecoderStdRecipe) -> TypeGuard[DecoderStd]:
    return isinstance(std, DecoderStd) and (std.link, std.floor) == (recipe.link, recipe.floor)


def _kind_in_words(std: object) -> str:
    return f"{std.link}, {std.floor:g}" if isinstance(std, DecoderStd) else "a prior without one"


def _take_weights(module: nn.Module, source: nn.Module, wanted: str, option: str = "--init") -> None:
    try:
        module.load_state_dict(source.state_dict())
    except (RuntimeError, KeyError) as error:
        raise ValueError(
            f"A prior to start from must have {wanted}; the one given differs: "
            f"{' '.join(str(error).split())[:200]}; change the recipe or leave out {option}."
        ) from error
