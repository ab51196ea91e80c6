"""Saved configs: a plan in a file, JSON or YAML, to begin the next run with."""

from __future__ import annotations

import os
from pathlib import Path

from amorsize_executor.errors import InvalidParameterTypeError
from amorsize_executor.parameters import check_flag
from amorsize_executor.storage import place, plan_file
from amorsize_executor.tuning import saved_plan
from amorsize_executor.tuning.saved_plan import ConfigData

__all__ = ["ConfigData", "get_default_config_dir", "list_configs", "load_config", "save_config"]


def save_config(
    config: ConfigData,
    filepath: str | os.PathLike[str],
    format: str = "auto",  # noqa: A002 - the name that callers know
    overwrite: bool = False,  # noqa: FBT001, FBT002
) -> None:
    """Write a config to a file; after a crash at any moment the file is whole, the old one or the new one.

    Args:
        config: What to write.
        filepath: Where to; directories above it are made.
        format: ``"json"``, ``"yaml"`` (needs PyYAML), or ``"auto"`` for what the suffix says, else JSON.
        overwrite: Whether a file that is there may be replaced.

    Raises:
        FileExistsError: The file is there, and is not to be overwritten.
        ValueError: There is no such format.
        MissingExtraError: YAML is asked for, and PyYAML is not installed (an ``ImportError``).
        StorageError: The file cannot be written (an ``OSError``).
    """
    if not isinstance(config, ConfigData):
        raise InvalidParameterTypeError("config", config, "must be a ConfigData")
    place.check_path("filepath", filepath)
    check_flag("overwrite", overwrite)
    saved_plan.save(config, filepath, format, overwrite=overwrite)


def load_config(filepath: str | os.PathLike[str], format: str = "auto") -> ConfigData:  # noqa: A002
    """Return the config that a file holds. Warns if it was saved on another machine.

    Args:
        filepath: The file.
        format: ``"json"``, ``"yaml"`` (needs PyYAML), or ``"auto"`` for what the suffix says, else JSON.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: There is no such format, or the file is damaged, lacks ``n_jobs`` or ``chunksize``, or something
            in it is out of its range; a ``ConfigFileError`` then, which says what to do.
        MissingExtraError: It is YAML, and PyYAML is not installed (an ``ImportError``).
    """
    place.check_path("filepath", filepath)
    return saved_plan.load(filepath, format, stacklevel=2)


def list_configs(directory: str | os.PathLike[str] = ".") -> list[Path]:
    """Return a directory's files with the suffix of a config, sorted; none where there is no such directory."""
    return plan_file.list_in(directory)


def get_default_config_dir() -> Path:
    """Return ``~/.amorsize/configs``, and make it if it is missing."""
    directory = Path.home() / ".amorsize" / "configs"
    place.make_directory(directory)
    return directory
