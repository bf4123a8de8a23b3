"""A dataclass as the configuration of a program: YAML fills it, flags win, unknown keys and wrong
types are refused.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from rbsf.shipped import find_config
from rbsf.system.files import write_atomically


def setting(
    default: Any,
    help: str,
    *,
    choices: Sequence[str] = (),
    metavar: str = "PATH",
    changeable: bool = False,
    decisive: bool = True,
    path: bool = False,
) -> Any:
    """A field of a configuration; `default` is a value, or `list` for an empty list.

    `metavar`: what an item of a list is called.  `changeable`: it may be another one when a
    training is resumed. `decisive`: the result depends on it.  `path`: it is a path, of which only
    the last part travels with weights.
    """
    metadata = {
        "help": help,
        "metavar": metavar,
        "changeable": changeable,
        "decisive": decisive,
        "path": path,
    }
    if choices:
        metadata["choices"] = choices
    if default is list:
        return dataclasses.field(default_factory=list, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def parse_config(
    cls: type, argv: list[str] | None, description: str, defaults: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Settings for `cls`, a dataclass, from `--config FILE` and flags (one a field), which win;
    only those given.

    A field's metadata gives its `help` and, where they are few, its `choices`.  `defaults`: values
    that --help names instead of the dataclass's own.  ValueError names a key or value of the file
    that does not fit; argparse exits on its own errors.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config",
        type=find_config,
        metavar="FILE",
        help="YAML file with any of the settings below, or the name of a shipped one, such as long; flags win over it",
    )
    types_of = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        _add_flag(parser, field, types_of[field.name], defaults or {})
    given = {k: v for k, v in vars(parser.parse_args(argv)).items() if v is not None}
    file = given.pop("config", None)
    return {**(read_yaml(cls, file) if file else {}), **given}


def read_yaml(cls: type, path: str | Path) -> dict[str, Any]:
    """Settings for `cls` from a YAML file.  FileNotFoundError, or ValueError naming file, key and
    what is valid.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no config file {path}")
    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date that is none
        raise ValueError(f"{path}: not YAML ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(settings, dict):
        raise ValueError(
            f"{path}: expected settings as `name: value`, found a {type(settings).__name__}"
        )
    return check_settings(cls, settings, str(path))


def check_settings(cls: type, settings: dict[str, Any], where: str) -> dict[str, Any]:
    """`settings` for the dataclass `cls` with their types put right; ValueError begins with
    `where`, names the key.
    """
    fields, types_of = (
        {field.name: field for field in dataclasses.fields(cls)},
        typing.get_type_hints(cls),
    )
    for key in settings:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, 1)
            raise ValueError(
                f"{where}: unknown setting {key!r}"
                + (f"; did you mean {near[0]!r}?" if near else "")
            )
    return {k: _checked(v, fields[k], types_of[k], f"{where}: {k}") for k, v in settings.items()}


def write_yaml(config: Any, path: str | Path) -> None:
    """Write all settings of a dataclass, for the record and for `--config`."""
    write_atomically(path, yaml.safe_dump(dataclasses.asdict(config), sort_keys=False).encode())


def _add_flag(
    parser: argparse.ArgumentParser, field: dataclasses.Field, kind: Any, defaults: dict[str, Any]
) -> None:
    flag = "--" + field.name.replace("_", "-")
    default = field.default_factory() if callable(field.default_factory) else field.default
    default = defaults.get(field.name, default)
    text = f"{field.metadata.get('help', '')} (default: {'none' if default in (None, []) else default})".replace(
        "%", "%%"
    )
    kind = _plain(kind)
    if kind is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
    elif typing.get_origin(kind) is list:
        parser.add_argument(
            flag, action="append", help=text + "; repeatable", metavar=field.metadata["metavar"]
        )
    else:
        metavar = (
            None if field.metadata.get("choices") else {int: "N", float: "X"}.get(kind, "TEXT")
        )
        parser.add_argument(
            flag, type=kind, help=text, choices=field.metadata.get("choices"), metavar=metavar
        )


def _plain(kind: Any) -> Any:
    """`X | None` to X."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return next(part for part in typing.get_args(kind) if part is not type(None))
    return kind


def _checked(value: Any, field: dataclasses.Field, kind: Any, where: str) -> Any:
    """`value` if it is of the field's type `kind` (an int serves as a float) and its choices, else
    ValueError.
    """
    if value is None and type(None) in typing.get_args(kind):
        return None
    kind = _plain(kind)
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 1e-4 as text
        try:
            return float(value)
        except ValueError:
            pass
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not _fits(value, kind):
        raise ValueError(
            f"{where} is {value!r}; expected {kind if typing.get_args(kind) else kind.__name__}"
        )
    choices = field.metadata.get("choices", (value,))
    if value not in choices:
        raise ValueError(f"{where} is {value!r}; expected one of {', '.join(map(str, choices))}")
    return value


def _fits(value: Any, kind: Any) -> bool:
    """Is `value` of the type `kind`, such as `int` or `list[str]`?  A bool is no int."""
    wanted = typing.get_origin(kind) or kind
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        return False
    return all(_fits(item, item_kind) for item_kind in typing.get_args(kind) for item in value)
