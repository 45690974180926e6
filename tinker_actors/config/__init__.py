"""What a client works with: settings, credentials, the recovery policy, limits. Alone in reading the environment."""

from tinker_actors.config.credentials import Credential, Secret
from tinker_actors.config.limits import SamplingLimits
from tinker_actors.config.recovery import RecoveryPolicy
from tinker_actors.config.settings import DEFAULT_BASE_URL, EMBEDDED_KEY, LOCAL, Settings

__all__ = [
    "DEFAULT_BASE_URL",
    "EMBEDDED_KEY",
    "LOCAL",
    "Credential",
    "RecoveryPolicy",
    "SamplingLimits",
    "Secret",
    "Settings",
]
