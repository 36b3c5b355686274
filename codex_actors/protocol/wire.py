"""The base of every wire model (frozen, unknown fields kept), and the fast way to make one of our own values."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

# The slots of an instance are set through their descriptors: half the price of `object.__setattr__`.
_new = object.__new__
_set_values = BaseModel.__dict__["__dict__"].__set__
_set_names = BaseModel.__dict__["__pydantic_fields_set__"].__set__
_set_extra = BaseModel.__dict__["__pydantic_extra__"].__set__
_set_private = BaseModel.__dict__["__pydantic_private__"].__set__

_BLANKS: dict[type, tuple[dict[str, Any], set[str]]] = {}
"""Of each class: its fields with their defaults, in the order that they have in JSON; the set of their names."""


LAZY = ConfigDict(defer_build=True)
"""Validators are built when they are first needed: to build them all at once is most of an import's time."""


class Wire(BaseModel):
    """A frozen value with Codex's field names. Fields that we do not know are kept, so that files pass through unharmed."""

    model_config = ConfigDict(frozen=True, extra="allow", **LAZY)

    @classmethod
    def __pydantic_init_subclass__(cls, **_options: Any) -> None:
        blank = {name: None if field.is_required() else field.default for name, field in cls.model_fields.items()}
        _BLANKS[cls] = blank, set(blank)


W = TypeVar("W", bound=Wire)


def made(kind: type[W], /, **values: Any) -> W:
    """A `kind` of our own values, unchecked: every required field must be given, each of its field's type.

    It equals what the constructor makes of them, for half the price, half the memory and a third of the garbage
    collector's work: each turn makes two dozen and keeps most. Guarded by `test_what_is_made_equals_what_is_checked`.
    """
    blank, names = _BLANKS[kind]
    fields = blank.copy()
    fields.update(values)
    instance = _new(kind)
    _set_values(instance, fields)
    _set_names(instance, names)
    _set_extra(instance, None)
    _set_private(instance, None)
    return instance


class NamesInOrder(set[str]):
    """The names of the fields that a model was read with, where they did not come in the order of its class."""

    order: tuple[str, ...] = ()


@lru_cache(maxsize=1024)
def _names_read(kind: type[Wire], names: tuple[str, ...]) -> set[str]:
    """One set for all models that were read with these names: most rollouts have few such, and thousands of items."""
    known = [name for name in kind.model_fields if name in names]
    if [*known, *(name for name in names if name not in kind.model_fields)] == list(names):
        return set(names)
    ordered = NamesInOrder(names)
    ordered.order = names
    return ordered


def keep_order(model: Wire, names: tuple[str, ...]) -> None:
    """Have `wire_value` give the fields of a model that was read from an object with these names in their order."""
    _set_names(model, _names_read(type(model), names))


def wire_value(model: Wire) -> Any:
    """The JSON value of `model`: of one that was read all that stood there, nulls and unknown fields too; of one of ours
    what it says. Fields come in the order of its class, or in that of `keep_order`."""
    names = model.__pydantic_fields_set__
    is_read = "type" in names and names is not _BLANKS[type(model)][1]
    value = model.model_dump(mode="json", exclude_unset=is_read, exclude_none=not is_read)
    return {name: value[name] for name in names.order} if isinstance(names, NamesInOrder) else value
