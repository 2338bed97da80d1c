"""Models on a hub: what a revision holds, and its files, fetched once into the data directory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, get_session, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented, but not in __all__
    build_hf_headers,
    hf_raise_for_status,
)

from shared.model_files import (
    CONFIG,
    MAX_JSON_BYTES,
    HubUnavailable,
    ModelFiles,
    ModelNotUsable,
    examine_files,
)
from shared.settings import Settings

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubCommit:
    """One commit of a repository."""

    repository: str
    commit: str


def pin(repository: str, revision: str, settings: Settings) -> tuple[HubCommit, ModelFiles]:
    """The commit that `revision` is now, and what its files say. Only JSON is fetched.

    Raises:
        ModelNotUsable: it is not there, not ours to read, or no decoder that could be loaded safely.
    """
    with _plain_errors(repository, revision):
        info = HfApi(endpoint=settings.hub_endpoint, token=_token(settings)).model_info(
            repository, revision=revision, timeout=settings.hub_timeout_seconds
        )
        if info.sha is None or not COMMIT.fullmatch(info.sha):
            raise ModelNotUsable(f"the hub names no commit for {repository}@{revision}")
        commit = HubCommit(repository, info.sha)
        names = {sibling.rfilename for sibling in info.siblings or ()}
        return commit, examine_files(names, lambda name: _fetch_json(commit, name, settings))


def fetch(commit: HubCommit, settings: Settings) -> Path:
    """Directory with the files that the model is loaded from, and no others.

    The configuration comes last: where it lies in the cache, all the rest does, and the hub is not
    asked again.

    Raises:
        ModelNotUsable: see `pin`.
    """
    cache = settings.data_directory / "hub"
    cached = try_to_load_from_cache(
        commit.repository, CONFIG, cache_dir=cache, revision=commit.commit, repo_type="model"
    )
    if isinstance(cached, str):
        return Path(cached).parent
    found, files = pin(commit.repository, commit.commit, settings)
    if found != commit:
        raise ModelNotUsable(f"the hub gave another commit of {commit.repository} than {commit.commit}")
    with _plain_errors(commit.repository, commit.commit):
        for name in sorted(files.names, key=lambda name: name == CONFIG):
            path = hf_hub_download(
                commit.repository,
                name,
                revision=commit.commit,
                cache_dir=cache,
                endpoint=settings.hub_endpoint,
                token=_token(settings),
                etag_timeout=settings.hub_timeout_seconds,
            )
    return Path(path).parent


def _fetch_json(commit: HubCommit, name: str, settings: Settings) -> bytes:
    url = hf_hub_url(commit.repository, name, revision=commit.commit, endpoint=settings.hub_endpoint)
    headers = build_hf_headers(token=_token(settings))
    content = bytearray()
    with get_session().stream("GET", url, headers=headers, timeout=settings.hub_timeout_seconds) as response:
        hf_raise_for_status(response)
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) > MAX_JSON_BYTES:
                raise ModelNotUsable(f"its {name} is larger than {MAX_JSON_BYTES // 2**20} MiB")
    return bytes(content)


def _token(settings: Settings) -> str | bool:
    """False keeps the client from using whatever token it finds on the machine."""
    return settings.hub_token.get_secret_value() if settings.hub_token else False


@contextmanager
def _plain_errors(repository: str, revision: str) -> Iterator[None]:
    try:
        yield
    except GatedRepoError as error:
        raise ModelNotUsable(f"{repository} is gated on the hub and our token has no access to it") from error
    except RepositoryNotFoundError as error:
        raise ModelNotUsable(f"{repository} is not on the hub, or it is private") from error
    except RevisionNotFoundError as error:
        raise ModelNotUsable(f"{repository} has no revision '{revision}' on the hub") from error
    except RemoteEntryNotFoundError as error:
        raise ModelNotUsable(f"{repository} misses a file that the hub lists") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        kind = HubUnavailable if status >= 500 else ModelNotUsable
        raise kind(f"the hub answered with status {status} for {repository}") from error
    except (httpx2.HTTPError, OSError) as error:
        raise HubUnavailable(f"the hub cannot be reached: {type(error).__name__}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ModelNotUsable("the hub's answer makes no sense; is it a model hub?") from error
