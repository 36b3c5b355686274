"""Plain typed Python functions as tools of a model: `@tool`, the JSON schema, the check of arguments."""

from __future__ import annotations

import asyncio
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import update_wrapper
from pathlib import Path
from typing import Annotated, Any, Generic, ParamSpec, Protocol, TypeVar, get_args, get_origin, get_type_hints, overload

from pydantic import BaseModel, ConfigDict, Field, PydanticUserError, ValidationError, create_model
from pydantic.errors import PydanticUndefinedAnnotation
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import SchemaError

from codex_actors.config import Config, ToolLike, is_seconds
from codex_actors.protocol.events import EventMsg
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.ops import ReviewDecision, describe

P = ParamSpec("P")
R = TypeVar("R")

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ToolError(Exception):
    """What a tool raises to tell the model something in plain words: its text is the output of the call, not a success."""


class ToolArgumentsError(ToolError):
    """The model's arguments do not fit the tool; `problems` names the fields. It becomes the output of the call."""

    def __init__(self, tool_name: str, problems: str) -> None:
        super().__init__(tool_name, problems)
        self.tool_name = tool_name
        self.problems = problems

    def __str__(self) -> str:
        return f"invalid arguments for {self.tool_name}: {self.problems}"


class TurnRoad(Protocol):
    """The road from a running tool call to its turn."""

    async def emit(self, msg: EventMsg) -> None:
        """Show an event of the turn; waits while the thread has too many to show."""
        ...

    async def ask_approval(
        self, call_id: str, command: tuple[str, ...], cwd: str, reason: str | None
    ) -> ReviewDecision:
        """Ask whoever watches the thread. `denied` where nobody answers in time."""
        ...


@dataclass(frozen=True, slots=True)
class ToolContext:
    """Whose call it is. A parameter annotated with this class is filled by the runtime; the model does not see it.

    Attributes:
        control: The thread's `AgentControl`: what it spawns are this thread's children.
        config: The thread's settings in this turn; None where no thread calls.
        cwd: The folder that the thread works in; None where no thread calls.
        road: How `emit` and `ask_approval` reach the turn; None where no turn calls.
        limit: The call's deadline, which does not run while an approval is waited for; None where no turn calls.
    """

    thread_id: ThreadId
    turn_id: str
    call_id: str
    control: Any
    config: Config | None = None
    cwd: Path | None = None
    road: TurnRoad | None = field(default=None, repr=False, compare=False)
    limit: asyncio.Timeout | None = field(default=None, repr=False, compare=False)

    async def emit(self, msg: EventMsg) -> None:
        """Show an event of the turn to who watches the thread; dropped where no turn calls. Runs in: async tools."""
        if self.road is not None:
            await self.road.emit(msg)

    async def ask_approval(
        self, command: Sequence[str], *, cwd: Path | None = None, reason: str | None = None
    ) -> ReviewDecision:
        """Ask whoever watches the thread whether `command` may run. Runs in: async tools.

        The answer is `denied` where nobody gives one within `approval_timeout_s`, and where no turn calls. The tool's own
        deadline does not run meanwhile.
        """
        if self.road is None:
            return "denied"
        where = cwd or self.cwd or Path.cwd()
        loop, limit = asyncio.get_running_loop(), self.limit
        left_s = None
        if limit is not None and (ends := limit.when()) is not None:
            left_s = ends - loop.time()
            with suppress(RuntimeError):  # the call was left, and the tool has outlasted it
                limit.reschedule(None)
        try:
            return await self.road.ask_approval(self.call_id, tuple(command), str(where), reason)
        finally:
            if limit is not None and left_s is not None:
                with suppress(RuntimeError):  # it was left meanwhile
                    limit.reschedule(loop.time() + left_s)


class Tool(Generic[P, R]):
    """A function that a model may call; calling the tool calls the function. Made by `@tool`.

    Attributes:
        parameters: The JSON schema of the arguments, without the `ToolContext`.
        is_async: Whether the function is an `async def`.
        is_read_only: Whether calls of it may run beside other read-only calls of the same response.
        timeout_s: Its own deadline for one call; None takes `ManagerConfig.tool_timeout_s`.

    It pickles by the qualified name of its function, which must stand at module level, or with the object whose method it is.
    """

    def __init__(
        self,
        function: Callable[P, R],
        name: str | None = None,
        description: str | None = None,
        is_read_only: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        if not (inspect.isfunction(function) or inspect.ismethod(function)):
            raise TypeError(f"@tool needs a plain function, not a value of type {type(function).__name__}")
        if function.__name__ == "<lambda>":
            raise TypeError("@tool needs a named function with annotations, not a lambda")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"tool {function.__qualname__}: a tool returns one value, it does not yield")
        self.name: str = function.__name__ if name is None else name
        if not (isinstance(self.name, str) and _NAME.fullmatch(self.name)):
            raise TypeError(f"tool {function.__qualname__}: the name {self.name!r} is not 1 to 64 of A-Z a-z 0-9 _ -")
        if timeout_s is not None and not is_seconds(timeout_s):
            raise TypeError(f"tool {function.__qualname__}: timeout_s={timeout_s!r} is not a number of seconds above 0")
        self.description: str = (inspect.getdoc(function) or "") if description is None else description
        self.is_async: bool = inspect.iscoroutinefunction(function)
        self.is_read_only: bool = is_read_only
        self.timeout_s: float | None = timeout_s
        self.function: Callable[P, R] = function
        self._arguments, self._parameters = _read_signature(function)
        self.parameters: Mapping[str, Any] = _schema_of(self._arguments, function)
        update_wrapper(self, function, updated=())

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Tool {self.name}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        qualname = self.function.__qualname__
        place: Any = sys.modules.get(self.__module__)
        for part in qualname.split("."):
            place = getattr(place, part, None)
        if place is self:
            return qualname
        return Tool, (self.function, self.name, self.description, self.is_read_only, self.timeout_s)

    def call(self, arguments: str, context: Any) -> R:
        """The function's value (an awaitable where `is_async`) for the model's `arguments`; `""` stands for `{}`.

        Raises:
            ToolArgumentsError: they are not JSON, or do not fit the parameters.
        """
        try:
            values = self._arguments.model_validate_json(arguments or "{}")
        except ValidationError as error:
            raise ToolArgumentsError(self.name, describe(error)) from None
        positional: list[Any] = []
        named: dict[str, Any] = {}
        for parameter, place in self._parameters:
            value = context if place is None else getattr(values, place)
            if parameter.kind is parameter.POSITIONAL_ONLY:
                positional.append(value)
            else:
                named[parameter.name] = value
        return self.function(*positional, **named)


@overload
def tool(function: Callable[P, R], /) -> Tool[P, R]: ...


@overload
def tool(
    *, name: str | None = None, description: str | None = None, read_only: bool = False, timeout_s: float | None = None
) -> Callable[[Callable[P, R]], Tool[P, R]]: ...


def tool(
    function: Callable[P, R] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    read_only: bool = False,
    timeout_s: float | None = None,
) -> Tool[P, R] | Callable[[Callable[P, R]], Tool[P, R]]:
    """Make a tool of a plain typed function, sync or async: `@tool` or `@tool(name=..., read_only=True, ...)`.

    The name is the function's, the description its whole docstring. Every parameter needs an annotation that pydantic
    can read from JSON; `Annotated[..., Field(description=...)]`, defaults and limits go into the schema. A parameter
    annotated `ToolContext` (or `ToolContext | None`) is filled by the runtime. See `Tool` for the deadline `timeout_s`.

    Of the calls of one response, those of a `read_only` tool run beside each other; one of any other tool runs alone, after
    those before it and before those behind it.

    Runs in: an async function on the manager's loop, a sync one on an OS thread of its own.

    Raises:
        TypeError: it is no such function; the text says why and names the parameter.
    """
    if function is not None:
        return Tool(function, name, description, read_only, timeout_s)
    return lambda function: Tool(function, name, description, read_only, timeout_s)


def spec(tool: ToolLike) -> dict[str, Any]:
    """The tool's wire JSON, as `Prompt.tools` holds it."""
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": False,
    }


class _UntitledSchema(GenerateJsonSchema):
    """Titles only repeat the names, and each costs the model tokens."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _schema_of(arguments: type[BaseModel], function: Callable[..., Any]) -> dict[str, Any]:
    try:
        schema = arguments.model_json_schema(schema_generator=_UntitledSchema)
    except PydanticUserError as error:
        raise TypeError(f"tool {function.__qualname__}: {error.message}") from error
    del schema["title"]
    return schema


def _read_signature(
    function: Callable[..., Any],
) -> tuple[type[BaseModel], tuple[tuple[inspect.Parameter, str | None], ...]]:
    """The model of the arguments, and each parameter with its field in it (None: the `ToolContext`)."""
    where = f"tool {function.__qualname__}"
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        raise TypeError(f"{where}: an annotation cannot be read ({error}); define its types at module level") from error
    fields: dict[str, Any] = {}
    parameters: list[tuple[inspect.Parameter, str | None]] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{where}: parameter {parameter} has no schema; name each parameter")
        if name not in hints:
            raise TypeError(f"{where}: parameter {name!r} has no annotation")
        if _is_context(hints[name], f"{where}: parameter {name!r}"):
            parameters.append((parameter, None))
            continue
        # Fields have names of their own: a parameter may be called `json` or `_x`, which a model's field may not.
        place = f"p{len(parameters)}"
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[place] = (Annotated[hints[name], Field(alias=name)], default)
        parameters.append((parameter, place))
    try:
        model = create_model("Arguments", __config__=ConfigDict(extra="forbid"), **fields)
    except (PydanticUserError, PydanticUndefinedAnnotation) as error:
        raise TypeError(f"{where}: {error.message}") from error
    except SchemaError as error:
        raise TypeError(f"{where}: {error}") from error
    return model, tuple(parameters)


def _is_context(hint: Any, where: str) -> bool:
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if hint is ToolContext or hint == ToolContext | None:
        return True
    if ToolContext in get_args(hint):
        raise TypeError(f"{where} must be annotated ToolContext or ToolContext | None")
    return False
