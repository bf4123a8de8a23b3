"""Configurations: dataclasses that a YAML file fills and flags override.

A configuration may contain others, its sections. Users see all settings on one level: the flag is
`--epochs` and the line in a file is `epochs: 30`, although the code reads `config.loop.epochs`. So
no two settings of a configuration have the same name.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import yaml

from rbsf.shipped import find_config
from rbsf.system.files import write_atomically
from rbsf.system.flags import Flags, allow_empty, make_parser
from rbsf.system.program import MAX_INT
from rbsf.system.text import read_text
from rbsf.system.yaml_file import read_yaml_file

Config = TypeVar("Config")
COUNT = re.compile(r"# (\d+) settings\n")
OTHERS = "other flags"
FEW = 30  # names that a message lists


def setting(
    default: Any,
    help: str,
    *,
    choices: Sequence[str] = (),
    metavar: str = "",
    changeable: bool = False,
    decisive: bool = True,
    path: bool = False,
) -> Any:
    """A field of a configuration.

    `default` is a value, or `list` for an empty list. `metavar` is the name of the value, or of an
    item of a list, in the help; by default it is N, X, TEXT or PATH. `changeable` means that a
    training may be resumed with another value, `decisive` that the result depends on the value,
    `path` that it is a path; only the last part of a path is compared on resuming, and written into
    weights.
    """
    metadata = {
        "help": help,
        "choices": choices,
        "metavar": metavar,
        "changeable": changeable,
        "decisive": decisive,
        "path": path,
    }
    if default is list:
        return dataclasses.field(default_factory=list, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def section(cls: type[Config], **defaults: Any) -> Config:
    """A field that holds a configuration of the class `cls`; `defaults` replace those of `cls`."""
    return dataclasses.field(default_factory=partial(cls, **defaults))


@dataclass(frozen=True)
class Setting:
    """One setting of a configuration: its type, its default, and what `setting` says of it."""

    kind: Any
    default: Any
    title: str  # title of the group that it belongs to
    section: str = ""  # the field that holds it; empty for the configuration itself
    help: str = ""
    choices: Sequence[str] = ()
    metavar: str = ""
    changeable: bool = False
    decisive: bool = True
    path: bool = False


def settings_of(cls: type) -> Mapping[str, Setting]:
    """All settings of a configuration by name, including those of its sections."""
    return _settings_of(cls)


@cache
def _settings_of(cls: Any) -> Mapping[str, Setting]:  # Any, as mypy takes no class for hashable
    kinds = typing.get_type_hints(cls)
    found = {}
    title = getattr(cls, "TITLE", OTHERS)
    for field in dataclasses.fields(cls):
        kind, default = kinds[field.name], _default(field)
        if not dataclasses.is_dataclass(kind):
            found[field.name] = Setting(kind, default, title, **field.metadata)
            continue
        for name, inner in settings_of(typing.cast(type, kind)).items():
            found[name] = dataclasses.replace(
                inner, default=getattr(default, name), section=field.name
            )
    return found


def check_most(config: Any, **most: float) -> None:
    """Raise ValueError for a field that is above its largest value."""
    for name, value in most.items():
        if not getattr(config, name) <= value:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be {value} or less")


def check_least(config: Any, **least: float) -> None:
    """Raise ValueError if a field is below its least value."""
    for name, value in least.items():
        if not getattr(config, name) >= value:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be {value} or more")


def from_settings(cls: type[Config], settings: Mapping[str, Any]) -> Config:
    """The configuration with `settings`; all other settings have their defaults.

    Raises ValueError, in one line, if a configuration refuses a value.
    """
    known = settings_of(cls)
    sections: dict[str, dict[str, Any]] = {each.section: {} for each in known.values()}
    for name, value in settings.items():
        sections[known[name].section][name] = value
    own = sections.pop("", {})
    defaults = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls))}
    inner = {
        name: dataclasses.replace(_default(defaults[name]), **values)
        for name, values in sections.items()
    }
    return cls(**own, **inner)


def as_settings(config: Any) -> dict[str, Any]:
    """All settings of a configuration by name; `from_settings` is the inverse."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            values |= as_settings(value)
        else:
            values[field.name] = value
    return values


def changed(config: Config, **settings: Any) -> Config:
    """A copy of a configuration with new values for some settings, in whichever section."""
    return from_settings(type(config), as_settings(config) | settings)


def parse_config(
    cls: type,
    argv: list[str] | None,
    description: str,
    defaults: dict[str, Any] | None = None,
    example: str = "",
) -> dict[str, Any]:
    """The settings for `cls` given by `--config PATH` and by flags; flags take precedence.

    Each setting is a flag; its metadata has the help. --help shows `defaults` instead of the
    defaults of `cls`. `example` is as in `make_parser`. The flags in `cls.FIRST` come first; all
    others are in groups by the `TITLE` of the configuration that contains them.

    Raises ValueError if a key or value of the file does not fit; argparse exits if a flag does not.
    """
    parser, first = make_parser(description, example)
    first.add_argument(
        "--config",
        type=find_config,
        metavar="PATH",
        help="Take the settings in this YAML file, or in the shipped one of this name, such as"
        " long or mnist; flags win over it",
    )
    known = settings_of(cls)
    shown = {name: (defaults or {}).get(name, each.default) for name, each in known.items()}
    first_names = getattr(cls, "FIRST", ())
    for name in first_names:
        _add_flag(first, name, known[name], shown[name])
    own = getattr(cls, "TITLE", OTHERS)
    groups: dict[str, Flags] = {own: parser.add_argument_group(own)}
    for name, each in known.items():
        if name in first_names:
            continue
        if each.title not in groups:
            groups[each.title] = parser.add_argument_group(each.title)
        _add_flag(groups[each.title], name, each, shown[name])
    given = {k: v for k, v in vars(parser.parse_args(argv)).items() if v is not None}
    file = given.pop("config", None)
    for name, value in given.items():
        _check_number(value, name)
    return {**(read_yaml(cls, file) if file else {}), **given}


def read_yaml(cls: type, path: str | Path) -> dict[str, Any]:
    """Settings for `cls` from a YAML file.

    Raises FileNotFoundError, or ValueError that names the file, the key and what is valid.
    """
    return check_settings(cls, read_unchecked(path), str(path))


def read_unchecked(path: str | Path) -> dict[str, Any]:
    """The settings in a YAML file, whatever their names and values are.

    Raises FileNotFoundError for a missing file, and ValueError for one without settings.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"no config file {path}; give a .yaml file, or a shipped name that --help shows"
        )
    settings = read_yaml_file(path) or {}
    if not isinstance(settings, dict):
        found = type(settings).__name__
        raise ValueError(f"{path}: expected settings as `name: value`, found a {found}")
    return settings


def _advice(name: Any, known: Iterable[str]) -> str:
    """The known name that resembles a wrong one, or all of them if they are few."""
    names = list(known)
    near = difflib.get_close_matches(str(name)[:100], names, 1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(names)}" if len(names) <= FEW else ""


def check_settings(cls: type, settings: dict[str, Any], where: str) -> dict[str, Any]:
    """`settings` for `cls`, with numbers of the right type.

    Raises ValueError that begins with `where` and names the key.
    """
    known = settings_of(cls)
    for name in settings:
        if name not in known:
            raise ValueError(f"{where}: unknown setting {_shown(name)}{_advice(name, known)}")
    return {
        name: _checked(value, known[name], f"{where}: {name}") for name, value in settings.items()
    }


def write_yaml(config: Any, path: str | Path) -> None:
    """Write all settings of a configuration, as a record and for `--config`.

    The first line says how many there are, so that a file that was cut short can be recognised.
    """
    values = as_settings(config)
    text = f"# {len(values)} settings\n" + yaml.safe_dump(values, sort_keys=False)
    write_atomically(path, text.encode())


def lacks_settings(path: str | Path, settings: Mapping[str, Any]) -> bool:
    """Whether `settings`, read from a file of `write_yaml`, are fewer than the file says.

    Files of older versions do not say how many; they have at least `epochs` and `seed`.
    """
    counted = COUNT.match(read_text(path))
    if counted:
        return len(settings) < int(counted[1])
    return not {"epochs", "seed"} <= settings.keys()


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _add_flag(parser: Flags, name: str, each: Setting, default: Any) -> None:
    flag, kind = "--" + name.replace("_", "-"), _plain(each.kind)
    text = f"{each.help} (default: {_in_words(default)})".replace("%", "%%")
    if kind is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
    elif typing.get_origin(kind) is list:
        parser.add_argument(flag, action="append", help=text, metavar=_metavar(kind, each))
    elif each.choices:
        shown = each.metavar or None
        parser.add_argument(flag, type=kind, help=text, choices=each.choices, metavar=shown)
    else:
        action = parser.add_argument(flag, type=kind, help=text, metavar=_metavar(kind, each))
        if default == "":
            allow_empty(action)


def _metavar(kind: Any, each: Setting) -> str:
    usual = "PATH" if each.path else {int: "N", float: "X"}.get(kind, "TEXT")
    return each.metavar or usual


def _in_words(default: Any) -> str:
    """A default as the help shows it."""
    if isinstance(default, bool):
        return "yes" if default else "no"
    return "none" if default in (None, [], "") else str(default)


def _plain(kind: Any) -> Any:
    """`X` of `X | None`."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return next(part for part in typing.get_args(kind) if part is not type(None))
    return kind


def _checked(value: Any, each: Setting, where: str) -> Any:
    """`value` as the setting's type. Raises ValueError for a wrong type or none of its choices."""
    if value is None and type(None) in typing.get_args(each.kind):
        return None
    kind = _plain(each.kind)
    if kind is float:
        value = _as_float(value)
    if not _fits(value, kind):
        expected = kind if typing.get_args(kind) else kind.__name__
        if kind is str and isinstance(value, bool):
            expected = "text; YAML reads on, off, yes and no as true or false, so put it in quotes"
        raise ValueError(f"{where} is {_shown(value)}; expected {expected}")
    if each.choices and value not in each.choices:
        raise ValueError(f"{where} is {_shown(value)}; expected one of {', '.join(each.choices)}")
    _check_number(value, where)
    return value


def _check_number(value: Any, where: str) -> None:
    """Raise ValueError for a number that is not finite, or too large a whole one."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}; give a finite number")
    if isinstance(value, int) and abs(value) > MAX_INT:
        raise ValueError(f"{where} is {_shown(value)}; give a number of at most {MAX_INT:,}")


def _as_float(value: Any) -> Any:
    """Turn a whole number, or text such as 1e-4 (text in YAML 1.1), into a float."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return value
    try:
        return float(value)
    except (OverflowError, ValueError):
        return value


def _shown(value: Any) -> str:
    """A value of a file as a message shows it."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _fits(value: Any, kind: Any) -> bool:
    """Whether `value` has the type `kind`, such as `int` or `list[str]`.

    A bool does not count as an int.
    """
    wanted = typing.get_origin(kind) or kind
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        return False
    return all(_fits(item, item_kind) for item_kind in typing.get_args(kind) for item in value)
