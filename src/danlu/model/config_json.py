"""Values of a `config.json` that danlu, transformers or a hand wrote: checked, and refused in one line."""

from __future__ import annotations

from typing import Any, TypeVar

from danlu.config import Table
from danlu.configure import check
from danlu.errors import CheckpointError, ConfigError

C = TypeVar("C", bound=Table)
_ADVICE = "Take back the file that was saved with the weights"


def hf_value(config_json: dict[str, Any], key: str, where: str, default: Any = None) -> Any:
    """Return a value. Raises CheckpointError where it is missing (or null) and there is no default."""
    value = config_json.get(key)
    value = default if value is None else value
    if value is None:
        raise CheckpointError(f"{where}: holds no {key!r}. {_ADVICE}")
    return value


def hf_size(config_json: dict[str, Any], key: str, where: str) -> int:
    """Return a value that is a whole number of 1 or more. Raises CheckpointError where it is anything else."""
    value = hf_value(config_json, key, where)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"{where}: `{key}` is {value!r}, and should be a whole number of 1 or more. {_ADVICE}")
    return value


def hf_table(config_json: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    """Return a value that is a table, empty where it is missing. Raises CheckpointError where it is none."""
    table = config_json.get(key) or {}
    if not isinstance(table, dict):
        raise CheckpointError(f"{where}: `{key}` is {table!r}, and should be a table. {_ADVICE}")
    return table


def checked(config_class: type[C], values: dict[str, Any], where: str, advice: str = _ADVICE) -> C:
    """Make a family's config. Raises CheckpointError naming the key whose value cannot be, with advice."""
    try:
        return check(config_class, values, where)
    except ConfigError as error:
        raise CheckpointError(f"{error}. {advice}") from None
