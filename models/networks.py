"""The one module that imports CompressAI, lazily: its import takes seconds and its wheels are picky."""

import copy
import functools
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

#: Bitrate parameters of the CompressAI zoo's MSE networks, by quality.
ZOO_ALPHAS = {1: 0.0018, 2: 0.0035, 3: 0.0067, 4: 0.0130, 5: 0.0250, 6: 0.0483, 7: 0.0932, 8: 0.1800}

#: Zoo names of the hyperprior networks, and the class each builds.
ZOO_CLASSES = {
    "bmshj2018-hyperprior": "ScaleHyperprior",
    "mbt2018-mean": "MeanScaleHyperprior",
    "mbt2018": "JointAutoregressiveHierarchicalPriors",
    "cheng2020-anchor": "Cheng2020Anchor",
    "cheng2020-attn": "Cheng2020Attention",
}


@functools.cache
def compressai() -> Any:
    """The ``compressai`` package.

    Raises:
        ImportError: With what to install, if it cannot be imported.
    """
    try:
        with warnings.catch_warnings():  # its dependencies announce deprecations that only it can act on
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            import compressai
            import compressai.models
            import compressai.zoo.pretrained
    except Exception as error:  # its compiled parts fail with OSError or RuntimeError as well
        raise ImportError(
            "Compressive autoencoders need an importable CompressAI >= 1.2.8; importing it failed with "
            f"{type(error).__name__}: {error}. Install it with `pip install compressai` on Python 3.11 or 3.12 with "
            "numpy < 2 and glibc >= 2.34, and torch and torchvision from the same index."
        ) from error
    return compressai


def check_hyperprior(network: nn.Module) -> None:
    """Raise TypeError unless ``network`` is a CompressAI network with a hyper-latent."""
    if not isinstance(network, compressai().models.ScaleHyperprior):
        raise TypeError(
            f"CAE needs one of CompressAI's hyperprior networks ({', '.join(ZOO_CLASSES.values())}); "
            f"received {type(network).__name__}; a network without hyper-latent has no p(z|h)."
        )
    if type(network).__name__.endswith("Vbr"):
        raise TypeError(
            f"CAE needs a network of one bitrate; received {type(network).__name__}, whose gains it would ignore; use "
            "rate_scale for other bitrates."
        )


def exchange(module: nn.Module, chosen: Callable[[Any], bool], made: Callable[[Any], nn.Module]) -> None:
    """Exchange the layers within a module that are chosen for what is made of them."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if chosen(child):
                setattr(parent, name, made(child))


def is_gdn(module: nn.Module) -> bool:
    """Whether a layer is a generalised divisive normalisation; without CompressAI none is."""
    return _is_layer(module, "GDN")


def is_masked_convolution(module: nn.Module) -> bool:
    """Whether a layer is a context model's masked convolution; without CompressAI none is."""
    return _is_layer(module, "MaskedConv2d")


def _is_layer(module: nn.Module, name: str) -> bool:
    # A network of CompressAI's has imported it; for others that import is not worth its seconds.
    layers = sys.modules.get("compressai.layers")
    return layers is not None and type(module) is getattr(layers, name)


def has_context(network: nn.Module) -> bool:
    """Whether p(z|h) is autoregressive in z."""
    return isinstance(network, compressai().models.JointAutoregressiveHierarchicalPriors)


def has_means(network: nn.Module) -> bool:
    """Whether the hyper-decoder gives means besides scales."""
    return isinstance(network, compressai().models.MeanScaleHyperprior)


def network_class(state: dict[str, Tensor]) -> str:
    """The class that a state dict belongs to, from its keys and shapes.

    Raises:
        ValueError: If it is none of the hyperprior networks.
    """
    missing = [part for part in ("g_a", "g_s", "h_a", "h_s") if not any(k.startswith(f"{part}.") for k in state)]
    if missing:
        raise ValueError(
            f"A checkpoint of a hyperprior network has the parts g_a, g_s, h_a and h_s; here {', '.join(missing)} "
            f"is missing (first keys: {', '.join(list(state)[:4])}); pass the state dict of one of "
            f"{', '.join(ZOO_CLASSES.values())}."
        )
    if "g_a.0.conv1.weight" in state:
        attention = any(".conv_a." in key for key in state)
        return "Cheng2020Attention" if attention else "Cheng2020Anchor"
    if any(key.startswith("context_prediction.") for key in state):
        return "JointAutoregressiveHierarchicalPriors"
    if "g_a.6.weight" not in state or "h_s.4.weight" not in state:
        raise ValueError(
            "The weights must be those of a known hyperprior network; their encoder g_a has another layout than "
            f"{', '.join(ZOO_CLASSES.values())}; build the network yourself and pass it as CAE(network, alpha=...)."
        )
    latents = state["g_a.6.weight"].shape[0]
    return "MeanScaleHyperprior" if state["h_s.4.weight"].shape[0] == 2 * latents else "ScaleHyperprior"


def build_network(state: dict[str, Tensor], architecture: str | None = None) -> Any:
    """The network with the weights ``state``, of a named class or of the one its keys tell.

    Raises:
        ValueError: If the weights do not fit the class.
    """
    state = compressai().zoo.pretrained.load_pretrained(state)
    found = network_class(state)
    architecture = architecture or found
    classes = {name: getattr(compressai().models, name) for name in ZOO_CLASSES.values()}
    if architecture not in classes:
        raise ValueError(
            f"architecture must be one of {', '.join(classes)}; received {architecture!r}; leave it out to have it "
            f"read off the weights (here: {found})."
        )
    try:
        with torch.random.fork_rng(devices=[]):  # the class first fills itself with random weights
            return classes[architecture].from_state_dict(state).eval()
    except (RuntimeError, KeyError) as error:
        raise ValueError(
            f"The weights must fit the network class; they look like {found} and were to be loaded as "
            f"{architecture}; name the class they were trained with. ({str(error).splitlines()[0]})"
        ) from error


def new_network(architecture: str, N: int, M: int | None) -> Any:
    """A network of a class in ``ZOO_CLASSES``, with random weights."""
    sizes = (N,) if M is None else (N, M)
    return getattr(compressai().models, architecture)(*sizes)


def codec_state(network: Any) -> dict[str, Tensor]:
    """The state dict of a network as a codec needs it: with the quantiles that belong to its entropy model.

    CompressAI trains the quantiles by an auxiliary loss; their equations are solved here by bisection, its other way.
    The tables that ``update()`` makes from them are left empty: they are large, and quickly made.
    """
    solved = copy.deepcopy(network).cpu().float()
    solved.entropy_bottleneck.update(force=True, update_quantiles=True)
    state = solved.state_dict()
    tables = ("_quantized_cdf", "_offset", "_cdf_length", "scale_table")
    return {key: value.new_empty(0) if key.endswith(tables) else value for key, value in state.items()}


def quantized_autoencoding(network: nn.Module, x: Tensor) -> tuple[Tensor, float]:
    """What the network as a codec makes of images (B, 3, H, W), and at how many bits, by its entropy model."""
    out = network(x)
    return out["x_hat"], float(sum(-likelihood.log2().sum() for likelihood in out["likelihoods"].values()))


def zoo_network(name: str, quality: int) -> Any:
    """A pretrained network of the CompressAI zoo, downloaded on first use."""
    models = compressai().zoo.image_models
    return models[name](quality=quality, metric="mse", pretrained=True).eval()
