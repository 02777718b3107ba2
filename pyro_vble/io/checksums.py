"""Checksums of files and tensors."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pyro_vble._arguments import BrokenRuleError, Rule

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK = 1 << 20


def _sha256(value: Any) -> str:
    if not isinstance(value, str):
        raise BrokenRuleError("type")
    if not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        raise BrokenRuleError("value")
    return value.lower()


#: The rule of a file's SHA-256 checksum.
Sha256 = Annotated[
    str, Rule("a SHA-256 checksum of 64 hexadecimal digits, or None", _sha256, "`sha256sum FILE` prints it")
]


def digest_of(path: Path, digest: Any = None) -> str:
    """The checksum of a file, SHA-256 by default, in hexadecimal digits.

    Example:
        >>> import pathlib, tempfile
        >>> from pyro_vble.io.checksums import digest_of
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = pathlib.Path(folder, "a").write_text("abc")
        ...     digest_of(pathlib.Path(folder, "a"))[:8]
        'ba7816bf'
    """
    digest = hashlib.sha256() if digest is None else digest
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def tensors_checksum(tensors: Mapping[str, "Tensor"], *texts: str) -> str:
    """A SHA-256 checksum of names, types, shapes and values of tensors, whatever their order, and of texts.

    Example:
        >>> import torch
        >>> from pyro_vble.io.checksums import tensors_checksum
        >>> a, b = torch.zeros(2), torch.ones(3)
        >>> tensors_checksum({"a": a, "b": b}) == tensors_checksum({"b": b, "a": a})
        True
        >>> tensors_checksum({"a": a}) == tensors_checksum({"a": a.double()})
        False
    """
    import torch

    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)}:{text}".encode())
    for name, value in sorted(tensors.items()):
        kind = str(value.dtype).removeprefix("torch.")
        digest.update(f"{len(name)}:{name} {kind} {tuple(value.shape)}\0".encode(errors="surrogatepass"))
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
