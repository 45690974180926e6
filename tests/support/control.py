"""The control endpoint of an embedded server: faults on order, and the log of what was executed."""

from typing import Any, TypeVar

import httpx
import msgspec

from tinker_actors.local.step_log import Entry, Executed, FaultFired

KEY = "tml-test"
T = TypeVar("T")


class Control:
    """Of a server that was started with `--control`.

    Args:
        url: where it listens, without a path.
    """

    def __init__(self, url: str) -> None:
        self._url = f"{url}/control"

    def arm(self, *faults: dict[str, Any], seed: int = 0) -> list[str]:
        """Set faults, each by the fields of `Fault`; their names."""
        plan = {"faults": list(faults), "seed": seed}
        names: list[str] = self._ask("POST", "faults", json=plan)["names"]
        return names

    def states(self) -> list[dict[str, Any]]:
        """Every fault that is set, with what became of it."""
        states: list[dict[str, Any]] = self._ask("GET", "faults")["faults"]
        return states

    def clear(self, name: str | None = None) -> None:
        """Take one fault back, or all."""
        self._ask("DELETE", "faults" if name is None else f"faults/{name}")

    def log(self, owner: str | None = None) -> list[Entry]:
        """What the server logged, oldest first; of one model, sampling session or session."""
        entries: list[Entry] = []
        while True:
            query = {"after": str(entries[-1].id if entries else 0), **({"owner": owner} if owner else {})}
            more = msgspec.convert(self._ask("GET", "log", params=query)["entries"], list[Entry])
            if not more:
                return entries
            entries += more

    def fired(self, name: str | None = None) -> list[FaultFired]:
        """The faults that fired, or each time that one of them did."""
        fired = [entry for entry in self.log() if isinstance(entry, FaultFired)]
        return [entry for entry in fired if name in (None, entry.fault)]

    def executed(self, owner: str) -> list[Executed]:
        """What was executed for a model or a sampling session, in order."""
        return [entry for entry in self.log(owner) if isinstance(entry, Executed)]

    def _ask(self, method: str, path: str, **more: Any) -> Any:
        answer = httpx.request(
            method,
            f"{self._url}/{path}",
            headers={"x-api-key": KEY},
            timeout=30,
            verify=False,  # noqa: S501 - nothing is encrypted on loopback
            **more,
        )
        assert answer.is_success, answer.text
        return answer.json()
