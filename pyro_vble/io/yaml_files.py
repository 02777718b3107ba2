"""YAML, with the numbers that its current version knows."""

import re
from typing import Any


def plain_content(yaml: Any, content: bytes, name: str) -> Any:
    """What a YAML file holds: mappings, lists, text and numbers.

    YAML 1.1, which PyYAML reads, takes 1e-3 for a word; this takes it for the number that it is in YAML 1.2.

    Args:
        yaml: The module, which comes with one of the extras.
        content: What is in the file.
        name: What to call the file in an error, "The recipe x.yaml" for example.

    Raises:
        ValueError: If it is no YAML.

    Example:
        >>> import yaml
        >>> from pyro_vble.io.yaml_files import plain_content
        >>> plain_content(yaml, b"lr: 1e-3", "The recipe")
        {'lr': 0.001}
    """

    class Loader(yaml.SafeLoader):
        pass

    exponent = re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", exponent, list("-+.0123456789"))
    try:
        return yaml.load(content, Loader=Loader)
    except Exception as error:  # PyYAML raises whatever its constructors do, from KeyError to RecursionError
        text = " ".join(str(error).split())[:300]
        raise ValueError(f"{name} must be YAML; it is not ({type(error).__name__}: {text}).") from error
