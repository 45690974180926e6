"""The session: opened when it is first needed, attached again when it lives, kept alive by beats."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec

from tinker_actors.actors.journal import LatestSession, ModelsOf, NoteSession
from tinker_actors.actors.liveness import AT_RISK_S, BEAT_S, Health, Pulse, boot_time, health_at, next_due
from tinker_actors.actors.published import JOURNAL, TRANSPORT, Published
from tinker_actors.actors.transport import Answered, Failed, Send
from tinker_actors.api.sessions import create_session, finish_session, session_heartbeat
from tinker_actors.api.training import get_info
from tinker_actors.errors import (
    APIConnectionError,
    APIStatusError,
    AuthenticationError,
