"""Strict settings: frozen pydantic models that refuse unknown keys and suggest the right one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from envs.errors import ConfigError

M = TypeVar("M", bound=BaseModel)


class StrictModel(BaseModel):
    """A frozen settings group. Unknown keys and NaN are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str = "settings") -> Self:
        """Validate `values`.

        Raises:
            ConfigError: names the setting, its value and, for a typo, the nearest setting.
        """
        return parse_model(cls, values, where=where)


def parse_model(model: type[M], values: Mapping[str, Any], *, where: str) -> M:
    """Validate `values` as `model`, turning pydantic's errors into one readable ConfigError."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        lines = [_explain(model, dict(problem)) for problem in error.errors()]
        raise ConfigError(f"{where}: " + "; ".join(lines)) from None


def _explain(model: type[BaseModel], problem: dict[str, Any]) -> str:
    path = [str(part) for part in problem["loc"]]
    name = ".".join(path)
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], _field_names(model, path[:-1]), n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        return f"unknown setting {name!r}{hint}"
    if problem["type"] == "missing":
        return f"setting {name!r} is missing"
    if problem["type"] == "union_tag_not_found":
        # pydantic quotes the discriminator's name.
        tag = str(problem["ctx"]["discriminator"]).strip("'")
        return f"setting {f'{name}.{tag}'!r} is missing"
    return f"{name} = {problem.get('input')!r}: {problem['msg']}"


def _field_names(model: type[BaseModel], path: list[str]) -> list[str]:
    """Names that would have been known at `path`, following nested models and unions of models."""
    candidates: list[type[BaseModel]] = [model]
    for part in path:
        following: list[type[BaseModel]] = []
        for candidate in candidates:
            field = candidate.model_fields.get(part)
            if field is not None:
                following += _models_in(field.annotation)
        # A union's discriminator value stands in the path too; it names no field.
        candidates = following or candidates
    return [name for candidate in candidates for name in candidate.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ConfigError: the file is missing, is not YAML, or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text file: {error.reason} at byte {error.start}") from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a {type(values).__name__}; expected settings as 'name: value'")
    return values
