"""Files of saved plans: one mapping each, as JSON or YAML, written atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from amorsize_executor.errors import ConfigFileError, MissingExtraError, StorageError
from amorsize_executor.parameters import check_choice
from amorsize_executor.storage import place

FORMATS = "auto", "json", "yaml"
SUFFIXES = {".json": "json", ".yaml": "yaml", ".yml": "yaml"}


def format_of(path: Path, wanted: str) -> str:
    """Return ``"json"`` or ``"yaml"``: as wanted, or with ``"auto"`` by the suffix, JSON where that says nothing.

    Raises:
        InvalidParameterError: There is no such format.
    """
    check_choice("format", wanted, FORMATS)
    return SUFFIXES.get(path.suffix.lower(), "json") if wanted == "auto" else wanted


def dump(document: Mapping[str, Any], form: str) -> str:
    """Return a mapping as text, in the order of its keys.

    Raises:
        MissingExtraError: YAML is asked for, and PyYAML is not installed.
    """
    if form == "yaml":
        return str(_load_yaml().safe_dump(dict(document), sort_keys=False, allow_unicode=True))
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def write(path: Path, document: Mapping[str, Any], form: str, *, overwrite: bool) -> None:
    """Write a mapping; after a crash at any moment the file is whole, the old one or the new one.

    Raises:
        FileExistsError: The file is there, and is not to be overwritten.
        MissingExtraError: YAML is asked for, and PyYAML is not installed.
        StorageError: It cannot be written.
    """
    content = dump(document, form).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(path.parent, f"the directory cannot be made: {error.strerror or error}") from error
    place.write_atomically(path, content, replace=overwrite)


def read(path: Path, form: str) -> dict[str, Any]:
    """Return the mapping that a file holds.

    Raises:
        FileNotFoundError: There is no such file.
        StorageError: It cannot be read.
        ConfigFileError: It is no text, is cut, or holds no mapping.
        MissingExtraError: It is YAML, and PyYAML is not installed.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")  # some editors put a mark before the text
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(path, f"cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigFileError(path, "is no text file; give the path of a saved config") from error
    document = _parse_yaml(path, text) if form == "yaml" else _parse_json(path, text)
    if not isinstance(document, dict):
        kind = "nothing" if document is None else f"a {type(document).__name__}"
        raise ConfigFileError(path, f"holds {kind} where a mapping with n_jobs and chunksize is expected")
    return document


def _parse_json(path: Path, text: str) -> Any:
    if not text.strip():
        raise ConfigFileError(path, "is empty; save the config anew")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigFileError(path, f"is not valid JSON: {error}; save it anew, or mend it there") from error


def _parse_yaml(path: Path, text: str) -> Any:
    yaml = _load_yaml()
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        told = " ".join(str(error).split())
        raise ConfigFileError(path, f"is not valid YAML: {told}; save it anew, or mend it there") from error


def _load_yaml() -> Any:
    try:
        return import_module("yaml")
    except ImportError as error:
        feature = "a config in YAML"
        raise MissingExtraError(feature, "PyYAML", "yaml") from error


def list_in(directory: str | os.PathLike[str]) -> list[Path]:
    """Return the files of a directory that may hold plans, sorted; none where there is no such directory."""
    place_of = Path(directory)
    if not place_of.is_dir():
        return []
    return sorted(path for path in place_of.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
