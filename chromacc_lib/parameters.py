"""The parameters of a run: what the notebooks declare, what a profile and the command line set, and their
types.

A parameter is known when the cell tagged `parameters` of some notebook declares it, as `name: type =
default`. A profile is a flat YAML mapping of parameters; `--set name=value` comes after it and wins. Whatever
is unknown, ill-typed or given twice is refused, all of it in one message.
"""

import ast
import difflib
import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import papermill
import yaml

from chromacc_lib import ChromaccError
from chromacc_lib.problems import YAML_ERRORS

__all__ = ["Parameter", "Setting", "declared_parameters", "read_profile", "parse_overrides", "check_settings"]


class Parameter(NamedTuple):
    """One line of a notebook's `parameters` cell."""

    name: str
    type_name: str  # int, float, str, bool, list or dict
    default: object
    help: str  # the comment behind it: unit, allowed values


class Setting(NamedTuple):
    """A value that somebody set, and where."""

    value: object
    origin: str  # for messages: "profile pilot.yaml" or "--set"
    text: str | None = None  # as typed on the command line


class _UniqueKeys(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, where PyYAML would silently keep the last."""


def _unique_mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict:
    """Build a mapping. Raises yaml.constructor.ConstructorError for a key given twice."""
    seen = set()
    for key_node, _ in node.value:
        if key_node.value in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"{key_node.value!r} is set twice; keep one of the two lines", key_node.start_mark
            )
        seen.add(key_node.value)
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)

_CHECKS = {
    "int": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "float": lambda v: isinstance(v, float) and math.isfinite(v),
    "str": lambda v: isinstance(v, str),
    "bool": lambda v: isinstance(v, bool),
    "list": lambda v: isinstance(v, list),
    "dict": lambda v: isinstance(v, dict) and all(isinstance(name, str) for name in v),
}
_WANTED = {
    "int": "a whole number, such as 12",
    "float": "a finite number, such as 0.5",
    "str": 'text; put it in quotes if YAML takes it for something else, as in "no" or "12"',
    "bool": "true or false",
    "list": "a list, such as [CTCF, GATA1], or [] for none",
    "dict": "names with values, such as {gate: additive}, or {} for none",
}


def declared_parameters(notebook: Path) -> dict[str, Parameter]:
    """Return the parameters that a notebook declares, by name, in order.

    Raises ChromaccError when the notebook has no `parameters` cell, or a line there without a plain type or
    value.
    """
    logging.getLogger("papermill").setLevel(logging.WARNING)
    found = papermill.inspect_notebook(str(notebook))
    if not found:
        raise ChromaccError(f"{notebook}: no cell tagged `parameters`, or no `name: type = value` line in it")
    return {name: _declaration(notebook, entry) for name, entry in found.items()}


def _declaration(notebook: Path, entry: dict) -> Parameter:
    """Turn one entry of papermill.inspect_notebook into a Parameter whose default has its declared type."""
    name, text = entry["name"], entry["default"]
    type_name = entry["inferred_type_name"].split("[")[0].strip()
    if type_name not in _CHECKS:
        raise ChromaccError(
            f"{notebook}: parameter {name!r} is declared with type {type_name!r}; "
            f"use one of {', '.join(_CHECKS)}: `{name}: type = value`"
        )
    try:
        default = ast.literal_eval(text)
    except (SyntaxError, ValueError) as error:
        raise ChromaccError(
            f"{notebook}: the default of parameter {name!r} is no plain value: {text}"
        ) from error
    default = float(default) if type_name == "float" and type(default) is int else default
    if not _CHECKS[type_name](default):
        raise ChromaccError(
            f"{notebook}: parameter {name!r} is declared {type_name}, but its default is {text}"
        )
    return Parameter(name, type_name, default, entry["help"])


def read_profile(profile: str, profiles_dir: Path) -> tuple[str, dict[str, Setting]]:
    """Return the name and the settings of a profile.

    `profile` is the name of a file in `profiles_dir` ("pilot"), or the path of a YAML file
    ("mine/liver.yaml"). Raises ChromaccError when there is no such profile, or when it is no flat YAML
    mapping.
    """
    path = Path(profile) if profile.endswith((".yaml", ".yml")) else profiles_dir / f"{profile}.yaml"
    if not path.is_file():
        shipped = sorted(p.stem for p in profiles_dir.glob("*.yaml"))
        near = difflib.get_close_matches(profile, shipped, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ChromaccError(
            f"no profile {profile!r}.{hint} Shipped profiles: {', '.join(shipped) or 'none'} "
            f"(in {profiles_dir}); the path of your own .yaml file works too"
        )
    try:
        content = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_UniqueKeys)
    except YAML_ERRORS as error:
        raise ChromaccError(f"{path}: not a readable YAML file: {error}") from error
    content = {} if content is None else content
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ChromaccError(f"{path}: a profile is a flat mapping, one `parameter: value` a line")
    return path.stem, {name: Setting(value, f"profile {path.name}") for name, value in content.items()}


def parse_overrides(overrides: Iterable[str]) -> dict[str, Setting]:
    """Read `name=value` texts as they were typed after --set; the value is YAML.

    Raises ChromaccError for a text without `=`, a value that is no YAML, and a name given twice.
    """
    settings: dict[str, Setting] = {}
    for override in overrides:
        name, equals, text = override.partition("=")
        name = name.strip()
        if not equals or not name:
            raise ChromaccError(f"--set {override!r}: write it as name=value, such as --set seed=2")
        if name in settings:
            raise ChromaccError(f"--set {name}: given twice ({settings[name].text!r} and {text!r}); keep one")
        try:
            value = yaml.load(text, Loader=_UniqueKeys)
        except YAML_ERRORS as error:
            raise ChromaccError(
                f"--set {override!r}: the value is no YAML: {error}"
            ) from error
        settings[name] = Setting(value, "--set", text)
    return settings


def check_settings(settings: dict[str, Setting], declared: dict[str, Parameter]) -> dict[str, object]:
    """Return the plain, typed value of every setting.

    `declared`: the parameters of all notebooks together. A whole number is accepted where a float is
    declared. Raises ChromaccError that lists every unknown and every ill-typed parameter.
    """
    values, problems = {}, []
    for name, setting in settings.items():
        if name not in declared:
            near = difflib.get_close_matches(name, declared, n=3, cutoff=0.5)
            hint = f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
            problems.append(f"unknown parameter {name!r} ({setting.origin}){hint}")
            continue
        type_name = declared[name].type_name
        values[name] = _converted(setting, type_name)
        if not _CHECKS[type_name](values[name]):
            shown = setting.text if setting.text is not None else repr(setting.value)
            problems.append(
                f"parameter {name!r} ({setting.origin}) is {shown}, but it must be {_WANTED[type_name]}"
            )
    if problems:
        known = ", ".join(sorted(declared))
        raise ChromaccError("\n".join(problems) + f"\nknown parameters: {known}")
    return values


def _converted(setting: Setting, type_name: str) -> object:
    """Return the value as its declared type where no information is lost, else as it is (and the check
    refuses it).
    """
    value = setting.value
    if type_name == "str" and setting.text is not None and not isinstance(value, str):
        return setting.text  # what was typed is text already: --set predict_cell_type=12
    if type_name == "float" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type_name == "float" and isinstance(value, str):
        try:
            return float(value)  # YAML 1.1 takes 1e-3, which has no dot, for text
        except ValueError:
            return value
    return value
