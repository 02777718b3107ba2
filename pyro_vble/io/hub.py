"""Priors from the Hugging Face Hub: pinned, checked, and clear about failures."""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_vble._arguments import checked
from pyro_vble._extras import extra
from pyro_vble.io.checksums import Sha256, digest_of

_NAME = re.compile(r"(?:hf://)?(?P<repo>[\w.-]+/[\w.-]+)/(?P<file>[^@]+\.\w+)(?:@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubFile:
    """A file of a Hub repository.

    Attributes:
        repo: "owner/name".
        file: Path of the file in it.
        revision: Commit, tag or branch; None for the newest.
    """

    repo: str
    file: str
    revision: str | None = None

    @property
    def name(self) -> str:
        """The name by which ``load_prior`` finds it."""
        return f"{self.repo}/{self.file}" + (f"@{self.revision}" if self.revision else "")


@checked
def parse_hub_name(name: str) -> HubFile | None:
    """The Hub file that a name means, "owner/repo/file.ext" or "owner/repo/file.ext@revision"; None if it means none.

    Example:
        >>> from pyro_vble.io.hub import parse_hub_name
        >>> parse_hub_name("MaudBqrd/VBLEModels/mbt_0.0483_bsd_std-diagonal.pth@v1").revision
        'v1'
    """
    match = _NAME.fullmatch(name)
    return HubFile(match["repo"], match["file"], match["revision"]) if match else None


@checked
def download(wanted: HubFile, *, sha256: Sha256 | None = None) -> tuple[Path, HubFile]:
    """Fetch a file into the Hub's cache, with a progress bar, and check it; returns its path and its pinned name.

    A branch or tag is resolved to its commit first, so that the name returned means the same bytes for ever. The
    file's checksum is compared with the Hub's record of that commit, and with ``sha256`` where it is given. What is in
    the cache already at a pinned commit needs no network.

    Args:
        wanted: The file.
        sha256: Checksum it must have.

    Raises:
        ConnectionError: If the Hub cannot be reached; the message says how to do without.
        ImportError: If the Hub's client is not installed.
        ValueError: If repository, revision or file do not exist, or the checksum is another.
    """
    with extra("hub"):
        import huggingface_hub
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    if (path := cached(wanted)) is not None:
        # The cache names a file by its checksum, git's for small ones.
        name = path.resolve().name
        sums = [name if re.fullmatch(rf"[0-9a-f]{{{digits}}}", name) else None for digits in (64, 40)]
        _check(path, wanted, *sums)
        _check_asked(path, wanted, sha256)
        return path, wanted
    try:
        api = huggingface_hub.HfApi()
        commit = api.repo_info(wanted.repo, revision=wanted.revision).sha
        records: list[Any] = api.get_paths_info(wanted.repo, [wanted.file], revision=commit)
        if not records:
            names = [name for name in api.list_repo_files(wanted.repo, revision=commit) if not name.startswith(".")]
            raise ValueError(
                f"{wanted.repo} has no file {wanted.file!r} at {str(commit)[:8]}; it has {', '.join(names[:12])}"
                f"{', ...' if len(names) > 12 else ''}."
            )
        path = Path(huggingface_hub.hf_hub_download(wanted.repo, wanted.file, revision=commit))
    except (EntryNotFoundError, HfHubHTTPError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, LocalEntryNotFoundError) or status is None or status == 429 or status >= 500:
            raise _unreachable(wanted, error) from error
        raise ValueError(
            f"{wanted.name} must be a local file, or one of a repository of the Hub that you may read; there is no "
            f"such local file, and the Hub answers {status}: {str(error).strip().splitlines()[0]}"
        ) from error
    except ValueError:
        raise
    except Exception as error:  # each version of the client has its own exceptions for a missing network
        raise _unreachable(wanted, error) from error
    (record,) = records
    _check(path, wanted, record.lfs.sha256 if record.lfs else None, None if record.lfs else record.blob_id)
    _check_asked(path, wanted, sha256)
    return path, HubFile(wanted.repo, wanted.file, commit)


def cached(wanted: HubFile) -> Path | None:
    """The file in the Hub's cache, if it is there and its name means a commit: it needs no network."""
    with extra("hub"):
        import huggingface_hub

    if wanted.revision is None or not _COMMIT.fullmatch(wanted.revision):
        return None
    found = huggingface_hub.try_to_load_from_cache(wanted.repo, wanted.file, revision=wanted.revision)
    return Path(found) if isinstance(found, str) else None


def _check(path: Path, wanted: HubFile, sha256: str | None, git_blob: str | None = None) -> None:
    """Raise ValueError unless a file has one of the Hub's checksums; a damaged one leaves the cache."""
    expected = sha256 or git_blob
    if sha256 is not None and digest_of(path) == sha256:
        return
    if git_blob is not None and _git_blob(path) == git_blob:
        return
    if expected is not None:
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise ValueError(
            f"{wanted.name} must have the checksum {expected}; the file downloaded has another, and was deleted "
            "from the cache; try again."
        )


def _check_asked(path: Path, wanted: HubFile, sha256: str | None) -> None:
    """Raise ValueError unless a file, which is the Hub's, has the checksum that the user gave; it stays."""
    if sha256 is not None and (found := digest_of(path)) != sha256:
        raise ValueError(
            f"{wanted.name} must have the checksum {sha256}; the Hub's file has {found}; correct sha256, or the commit."
        )


def _git_blob(path: Path) -> str:
    """The name git gives a file's content: what the Hub records of small files."""
    header = f"blob {os.path.getsize(path)}\0".encode()
    return digest_of(path, hashlib.sha1(header, usedforsecurity=False))


def _unreachable(wanted: HubFile, error: Exception) -> ConnectionError:
    return ConnectionError(
        f"{wanted.name} is downloaded from the Hugging Face Hub on first use, and that failed "
        f"({type(error).__name__}: {' '.join(str(error).split())[:200]}). On a machine without network, fetch the "
        f"file elsewhere (`hf download {wanted.repo} {wanted.file}`) and pass its path; a name pinned to a commit (@ "
        "and its 40 digits) is found in the cache without network."
    )
