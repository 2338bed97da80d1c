"""The model an audit names: built in, in a local directory, or on a hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shared import model_hub
from shared.model_files import ModelNotUsable as ModelNotUsable
from shared.model_files import content_revision as content_revision
from shared.model_files import examine_directory
from shared.settings import Settings

BUILTIN_MODELS = {"almanac": 6}  # how many blocks each has
DEFAULT_REVISION = "main"
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
REVISION = re.compile(r"[A-Za-z0-9][\w./-]*", re.ASCII)


@dataclass(frozen=True)
class BuiltinModel:
    """A model that comes with Holdfast."""

    name: str

    def __str__(self) -> str:
        return f"builtin:{self.name}"


@dataclass(frozen=True)
class LocalModel:
    """A directory, absolute or relative to one of `Settings.model_roots`."""

    path: Path

    def __str__(self) -> str:
        return f"local:{self.path}"


@dataclass(frozen=True)
class HubModel:
    """A repository on a hub; a revision is a branch, a tag or a commit."""

    repository: str
    revision: str

    def __str__(self) -> str:
        return f"hf:{self.repository}@{self.revision}"


ModelReference = BuiltinModel | LocalModel | HubModel


@dataclass(frozen=True)
class InspectedModel:
    """What can be said of a model before its weights are loaded.

    `revision` is the hub's commit; that of other models is their `content_revision`, which takes
    reading the weights and is left to the worker.
    """

    reference: ModelReference
    revision: str | None
    model_type: str | None
    architecture: str | None
    block_count: int | None


def parse_model_reference(text: str) -> ModelReference:
    """Read `builtin:NAME`, `local:DIRECTORY` or `hf:ORG/NAME[@REVISION]`.

    Raises:
        ModelNotUsable: it is none of these.
    """
    kind, _, rest = text.partition(":")
    if kind == "builtin" and rest in BUILTIN_MODELS:
        return BuiltinModel(rest)
    if kind == "builtin":
        raise ModelNotUsable(f"there is no built-in model '{rest}'; known: {', '.join(BUILTIN_MODELS)}")
    if kind == "local" and rest and rest.isprintable():
        return LocalModel(Path(rest))
    if kind == "hf":
        repository, at, revision = rest.partition("@")
        revision = revision if at else DEFAULT_REVISION
        if REPOSITORY.fullmatch(repository) and REVISION.fullmatch(revision) and ".." not in rest:
            return HubModel(repository, revision)
    raise ModelNotUsable("a model is given as builtin:NAME, local:DIRECTORY or hf:ORG/NAME@REVISION")


def inspect_model(
    reference: ModelReference, settings: Settings, *, only_writes: bool = False
) -> InspectedModel:
    """Check that a model can be audited, without loading it; a hub's revision is pinned.

    only_writes: it is not to be audited, so that it may have an encoder.

    Raises:
        ModelNotUsable: not there, not allowed, or not a decoder that can be loaded safely.
    """
    match reference:
        case BuiltinModel():
            return InspectedModel(reference, None, None, None, BUILTIN_MODELS[reference.name])
        case LocalModel():
            files = examine_directory(_allowed_directory(reference, settings))
            revision = None
        case HubModel():
            commit, files = model_hub.pin(reference.repository, reference.revision, settings)
            revision = commit.commit
    if not only_writes:
        files.check_decoder()
    return InspectedModel(reference, revision, files.model_type, files.architecture, files.block_count)


def model_directory(
    reference: ModelReference,
    revision: str | None,
    settings: Settings,
    *,
    builtin_directories: Mapping[str, Path],
    only_writes: bool = False,
) -> Path:
    """Directory to load a model from, checked again; a hub's files are fetched if need be.

    revision: the hub's commit as pinned by `inspect_model`, where that has run. only_writes: see there.

    Raises:
        ModelNotUsable: see `inspect_model`.
    """
    match reference:
        case BuiltinModel():
            directory = builtin_directories[reference.name]
        case LocalModel():
            directory = _allowed_directory(reference, settings)
        case HubModel():
            commit = model_hub.HubCommit(reference.repository, revision) if revision else None
            if commit is None:
                commit, _ = model_hub.pin(reference.repository, reference.revision, settings)
            directory = model_hub.fetch(commit, settings)
    files = examine_directory(directory)
    if not only_writes:
        files.check_decoder()
    return directory


def local_file(text: str, settings: Settings) -> Path:
    """The file that `local:FILE` names, under one of `Settings.model_roots` once links are followed.

    Raises:
        ModelNotUsable: it is no such reference, or the file is not there or not allowed.
    """
    reference = parse_model_reference(text)
    if not isinstance(reference, LocalModel):
        raise ModelNotUsable("a file is given as local:FILE")
    file = _allowed_path(reference, settings, Path.is_file)
    if file is None:
        raise ModelNotUsable("there is no such file")
    return file


def local_directory(text: str, settings: Settings) -> Path:
    """The directory that `local:DIRECTORY` names, under a model root once links are followed.

    Raises:
        ModelNotUsable: it is no such reference, or the directory is not there or not allowed.
    """
    reference = parse_model_reference(text)
    if not isinstance(reference, LocalModel):
        raise ModelNotUsable("a directory is given as local:DIRECTORY")
    return _allowed_directory(reference, settings)


def _allowed_directory(reference: LocalModel, settings: Settings) -> Path:
    """The directory meant, if it and every file in it lie under a root once links are followed.

    Whether something exists outside the roots is not given away.
    """
    directory = _allowed_path(reference, settings, Path.is_dir)
    if directory is None:
        raise ModelNotUsable("there is no such directory")
    roots = _roots(settings)
    with _plain_reasons():
        strays = [entry.name for entry in directory.iterdir() if not _is_under(entry.resolve(), roots)]
    if strays:
        raise ModelNotUsable(f"its file {min(strays)} is a link out of the allowed model roots")
    return directory


def _allowed_path(
    reference: LocalModel, settings: Settings, is_wanted: Callable[[Path], bool]
) -> Path | None:
    """What is meant, links followed, if it lies under a root; None where nothing of the kind wanted is."""
    roots = _roots(settings)
    with _plain_reasons():
        candidates = [(root / reference.path).resolve() for root in roots]  # an absolute path stays as it is
        allowed = [path for path in candidates if _is_under(path, roots)]
        if not allowed:
            raise ModelNotUsable("it is not under an allowed model root")
        return next((path for path in allowed if is_wanted(path)), None)


@contextmanager
def _plain_reasons() -> Iterator[None]:
    try:
        yield
    except OSError as error:  # also a name that is too long for the file system
        raise ModelNotUsable(f"it cannot be read: {error.strerror}") from error
    except RuntimeError as error:  # how Python up to 3.12 reports a circle of links
        raise ModelNotUsable("it has links that lead in a circle") from error


def _roots(settings: Settings) -> list[Path]:
    roots = [root.resolve() for root in settings.model_roots]
    if not roots:
        raise ModelNotUsable("local models are not allowed here: no model root is configured")
    return roots


def _is_under(path: Path, roots: list[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)
