"""How a file, a preset and flags make a config, and how a config is written as TOML.

`read_tables` starts from the file's `preset` (a TOML in `danlu/presets`) and lays the file over it; `read_config`
checks the result and hands it to tyro as the default, so that `--optim.lr 1e-3` overrides and `--help` shows the
file's values.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import re
import tomllib
import types
import typing
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ValidationError

from danlu.errors import ConfigError

_VALIDATION_ERROR = re.compile(
    r"Error parsing (?P<table>\S+): \d+ validation errors? for \S+ "
    r"(?:(?P<key>[a-z_.0-9]* ?)Value error, |(?P<field>[a-z_.0-9]+) )(?P<message>.*?) \[type="
)
"""What pydantic says inside tyro's box: of which table, of which key, and what."""
C = TypeVar("C", bound=BaseModel)
T = TypeVar("T")


def preset_names() -> list[str]:
    """Names of the recipes that come with danlu."""
    folder = resources.files("danlu") / "presets"
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


def read_preset(name: str) -> dict[str, Any]:
    """Return a preset's tables. Raises ConfigError, with a suggestion, for an unknown name."""
    if name not in preset_names():
        raise ConfigError(
            f"preset {name!r}: there is none{_suggest(name, preset_names())}. Known: {', '.join(preset_names())}"
        )
    text = (resources.files("danlu") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
    return {**tomllib.loads(text), "preset": name}


def read_tables(source: str) -> dict[str, Any]:
    """Read a TOML file, a run folder's own or a preset into tables; the file's `preset` lies below it.

    A run folder's file has every setting already, as its preset was then.
    """
    path = Path(source)
    if (path / "run.toml").is_file():
        return read_toml(path / "run.toml", "Name another run folder, a TOML file or a preset")
    if path.suffix != ".toml" and not path.is_file():
        if len(path.parts) > 1 and not path.exists():
            raise ConfigError(f"{path}: there is no such run folder. Name one, a TOML file or a preset")
        return read_preset(source)
    tables = read_toml(path, f"Name a TOML file or a preset: {', '.join(preset_names())}")
    preset = tables.get("preset")
    base = read_preset(preset) if isinstance(preset, str) else {}
    return merge(base, tables)


def read_toml(path: Path, advice: str) -> dict[str, Any]:
    """Read a TOML file as it is. Raises ConfigError, with what to do, where it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}). {advice}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: is no valid TOML ({error})") from None


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Lay `over` upon `base`, table by table; another `model_type` replaces the whole model table."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(below, dict) and isinstance(value, dict) and _same_family(below, value):
            result[key] = merge(below, value)
        else:
            result[key] = value
    return result


def _same_family(below: dict[str, Any], over: dict[str, Any]) -> bool:
    return over.get("model_type") in (None, below.get("model_type"))


def check(config_class: type[C], tables: dict[str, Any], where: str) -> C:
    """Validate tables. Raises ConfigError naming `where`, the key and, for an unknown one, the nearest."""
    try:
        return config_class.model_validate(tables)
    except ValidationError as error:
        found = error.errors()  # a key that is unknown says more than that another one is missing
        first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
        location = [str(p) for p in first["loc"] if p not in ("qwen3", "danlu_article")]
        key = ".".join(location)
        if first["type"] == "extra_forbidden":
            message = f"unknown key `{key}`{_suggest(location[-1], list(_all_keys(config_class)))}"
        else:
            message = (f"`{key}`: " if key else "") + first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{where}: {message}") from None


def read_config(config_class: type[C], tables: dict[str, Any], flags: Sequence[str], where: str) -> C:
    """Make a config of tables and command-line flags (`--a.b value`); `--help` shows the tables' values."""
    return parse_flags(config_class, flags, where, default=check(config_class, tables, where))


def parse_flags(options_class: type[T], flags: Sequence[str], prog: str, default: T | None = None) -> T:
    """Read flags into a dataclass or pydantic model with tyro. Raises ConfigError for wrong ones.

    With a pydantic model as default a truth is a flag's value (`--key True`), else there are two (`--key`, `--no-key`).
    """
    import tyro

    config = (tyro.conf.AvoidSubcommands,) if default is not None else ()
    if isinstance(default, BaseModel):
        config = (*config, tyro.conf.FlagConversionOff)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(options_class, default=default, args=list(flags), prog=prog, config=config)  # pyright: ignore
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{prog}: " + (f"`{key}`: " if key else "") + message) from None
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ConfigError(f"{prog}: {_one_line(said.getvalue())}. See {prog} --help") from None


def _one_line(box: str) -> str:
    """Flatten what tyro printed in a box to its first message."""
    lines = [line.strip("│╭╮╰╯─ \t") for line in box.splitlines()]
    invalid = _VALIDATION_ERROR.search(" ".join(lines))
    if invalid:
        table, key, message = invalid["table"], (invalid["key"] or invalid["field"] or "").strip(), invalid["message"]
        parts = [part for part in (table if table.islower() else "", key) if part]
        return (f"`{'.'.join(parts)}`: " if parts else "") + message
    noise = (
        "For full helptext",
        "Unrecognized options",
        "Parsing error",
        "Value error",
        "Argument helptext",
        "Required",
    )
    words = [line for line in lines if line and not line.startswith(noise)]
    unknown = next((line.strip("│ ") for line in box.splitlines() if "Unrecognized options:" in line), None)
    if unknown is not None:
        meant = re.search(r"Perhaps you meant:? *(--\S+)", " ".join(lines))
        return unknown + (f" (did you mean {meant[1]}?)" if meant else "")
    return "; ".join(line.rstrip(":.") for line in words[:3]).replace(",; ", ", ") or "wrong options"


def to_toml(config: BaseModel) -> str:
    """Write a config as TOML that reads back as the same config; keys that are None are left out."""
    return "\n".join(_toml_lines(config.model_dump(mode="json", exclude_none=True), "")) + "\n"


def _toml_lines(table: dict[str, Any], path: str) -> Iterator[str]:
    tables = {k: v for k, v in table.items() if isinstance(v, dict)}
    arrays = {k: v for k, v in table.items() if isinstance(v, list) and v and isinstance(v[0], dict)}
    for key, value in table.items():
        if key not in tables and key not in arrays:
            yield f"{key} = {json.dumps(value, ensure_ascii=False)}"
    for key, value in tables.items():
        yield f"\n[{path}{key}]"
        yield from _toml_lines(value, f"{path}{key}.")
    for key, rows in arrays.items():
        for row in rows:
            yield f"\n[[{path}{key}]]"
            yield from _toml_lines(row, f"{path}{key}.")


def _all_keys(config_class: type[BaseModel]) -> Iterator[str]:
    for name, field in config_class.model_fields.items():
        yield name
        for inner in _table_classes(field.annotation):
            yield from _all_keys(inner)


def _table_classes(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, tuple, Annotated):
        return [c for a in typing.get_args(annotation) for c in _table_classes(a)]
    return []


def _suggest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" (did you mean `{near[0]}`?)" if near else ""
