"""An actor-model runtime for agent threads: start, run, resume, fork, list and remove them in one Python program.

Begin with `ThreadManager`.
"""

from codex_actors.actors.control import AgentControl
from codex_actors.actors.handle import CodexThread, NewThread
from codex_actors.config import Config, ManagerConfig
from codex_actors.errors import CodexError
from codex_actors.manager import ThreadManager
from codex_actors.model.provider import ModelProvider, Prompt
from codex_actors.model.scripted import ScriptedModel
from codex_actors.protocol.history import Forked, New, Resumed, SessionSource
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.ops import (
    Compact,
    ExecApproval,
    Interrupt,
    OverrideTurnContext,
    Shutdown,
    ThreadRollback,
    UserInput,
    UserTurn,
)
from codex_actors.protocol.status import AgentStatus
from codex_actors.rollout.forking import ForkPoint
from codex_actors.rollout.listing import ThreadPage, ThreadQuery
from codex_actors.rollout.summary import KeptThread
from codex_actors.runtime.reply import Reply
from codex_actors.runtime.streams import EventStream
from codex_actors.tools.tool import ToolContext, tool
from codex_actors.turn import TurnResult
from codex_actors.version import __version__ as __version__

__all__ = [
    "AgentControl",
    "AgentStatus",
    "CodexError",
    "CodexThread",
    "Compact",
    "Config",
    "EventStream",
    "ExecApproval",
    "ForkPoint",
    "Forked",
    "Interrupt",
    "KeptThread",
    "ManagerConfig",
    "ModelProvider",
    "New",
    "NewThread",
    "OverrideTurnContext",
    "Prompt",
    "Reply",
    "Resumed",
    "ScriptedModel",
    "SessionSource",
    "Shutdown",
    "ThreadId",
    "ThreadManager",
    "ThreadPage",
    "ThreadQuery",
    "ThreadRollback",
    "ToolContext",
    "TurnResult",
    "UserInput",
    "UserTurn",
    "tool",
]
