"""The base of every wire model (frozen, unknown fields kept), and the fast way to make one of our own values."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict
from pydantic_core import to_json

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
    """The names of the fields that a model was read with, where they did not come in the order of its class, or those of a
    model in it did not."""

    order: tuple[str, ...] = ()


class _Shape(NamedTuple):
    """What models of one class have in common that were read with the same names."""

    is_other: bool
    """Whether the names have another order than those of the class."""

    nested: tuple[str, ...]
    """Those that may have models in them."""

    names: set[str]
    """One set for all of these models: most rollouts have few such shapes, and thousands of items."""

    ordered: NamesInOrder


@lru_cache(maxsize=1024)
def _shape(kind: type[Wire], names: tuple[str, ...]) -> _Shape | None:
    """None for a class that keeps the order by itself."""
    if kind.__pydantic_decorators__.model_serializers:
        return None
    fields = kind.model_fields
    known = [name for name in fields if name in names]
    ordered = NamesInOrder(names)
    ordered.order = names
    return _Shape(
        is_other=[*known, *(name for name in names if name not in fields)] != list(names),
        nested=tuple(name for name in known if _may_hold_models(fields[name].annotation)),
        names=set(names),
        ordered=ordered,
    )


def _may_hold_models(annotation: Any) -> bool:
    if get_origin(annotation) is tuple:
        return True
    return annotation in _BLANKS if isinstance(annotation, type) else any(map(_may_hold_models, get_args(annotation)))


def keep_order(model: Wire, value: dict[str, Any]) -> bool:
    """Have `wire_value` give the fields of a model, and of those in it, in the order that they have in `value`, which it was
    read from. Whether that is another order than that of the classes."""
    shape = _shape(type(model), tuple(value))
    if shape is None:
        return False
    is_other = shape.is_other
    for name in shape.nested:
        inner, ours = value[name], model.__dict__[name]
        if type(inner) is list:
            for part, of_part in zip(ours or (), inner, strict=False):
                # Nearly every part is {"type", "text"}, which is the order of its class.
                if type(part) in _BLANKS and (len(of_part) != 2 or next(iter(of_part)) != "type"):
                    is_other |= keep_order(part, of_part)
        elif type(inner) is dict and type(ours) in _BLANKS:
            is_other |= keep_order(ours, inner)
    _set_names(model, shape.ordered if is_other else shape.names)
    return is_other


def wire_value(model: Wire) -> Any:
    """The JSON value of `model`: of one that was read all that stood there, nulls and unknown fields too; of one of ours
    what it says. Fields come in the order of its class, or in that of `keep_order`."""
    return _value(model, was_read(model))


def wire_json(model: Wire, without: set[str] | None = None) -> bytes:
    """`wire_value` as JSON, but for some fields."""
    is_read = was_read(model)
    if type(model.__pydantic_fields_set__) is not NamesInOrder and _is_even(model, is_read):
        # The serializer itself: `model_dump_json` does the same for half as much again, and makes a str of it.
        encoded: bytes = model.__pydantic_serializer__.to_json(
            model, exclude_unset=is_read, exclude_none=not is_read, exclude=without
        )
        return encoded
    value = _value(model, is_read)
    return to_json({name: value[name] for name in value if name not in without} if without else value)


def was_read(model: Wire) -> bool:
    """Whether it was read, and not made here: a tag has a default, which nobody here gives."""
    names = model.__pydantic_fields_set__
    return "type" in names and names is not _BLANKS[type(model)][1]


def _is_even(model: Wire, is_read: bool) -> bool:
    """Whether the parts of its lists come from where it comes from itself: read, or ours."""
    for inner in model.__dict__.values():
        if type(inner) is tuple:
            for part in inner:
                if type(part) in _BLANKS and was_read(part) is not is_read:
                    return False
    return True


def _value(model: Wire, is_read: bool) -> Any:
    value = model.model_dump(mode="json", exclude_unset=is_read, exclude_none=not is_read)
    for name, inner in model.__dict__.items():
        if name not in value:
            continue
        if type(inner) in _BLANKS:
            value[name] = _inner_value(inner, is_read)
        elif type(inner) is tuple and any(type(part) in _BLANKS for part in inner):
            value[name] = [_inner_value(part, is_read) if type(part) in _BLANKS else part for part in inner]
    names = model.__pydantic_fields_set__
    if isinstance(names, NamesInOrder):
        return {**{name: value[name] for name in names.order if name in value}, **value}
    return value


def _inner_value(model: Wire, is_read: bool) -> Any:
    """Of a model without a tag, the one that it stands in says whether it was read."""
    return _value(model, was_read(model) if "type" in type(model).model_fields else is_read)
