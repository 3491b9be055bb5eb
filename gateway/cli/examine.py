"""Looking at an upstream without making a picture: each of its accounts, or which kind it is that answers at a URL.

Nothing here is sent that costs anything, and nothing is asked twice.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway import config
from gateway.builders import BUILDERS, accounts_of
from gateway.core.models import Model
from gateway.core.reports import Outcome, UpstreamFault
from gateway.ports import Findings, Upstream

_SECONDS: Final = 60.0
_GUESS_SECONDS: Final = 15.0
_GUESS_CONNECT_MS: Final = 5_000


@dataclass(frozen=True, slots=True)
class Account:
    """One account of an upstream, as it was found."""

    name: str
    findings: Findings | None = None
    """`None` = there was no answer that could be understood."""
    models: tuple[Model, ...] = ()
    problems: tuple[str, ...] = ()
    """What is wrong, in plain words, each with what to do."""

    @property
    def answers_sensibly(self) -> bool:
        """Whether it is what it was taken for: one that only says that it is another thing has nothing to offer."""
        return self.findings is not None and bool(self.models)


@dataclass(frozen=True, slots=True)
class Guess:
    """What may answer at a URL."""

    settings: config.HttpUpstream
    account: Account


async def examine(name: str, settings: config.Upstream, seconds: float = _SECONDS) -> tuple[Account, ...]:
    """Return what the accounts of an upstream are like."""
    try:
        accounts = accounts_of(name, settings)
    except ValueError as error:
        return (Account(name, problems=(f"the settings of {name} cannot be used: {error}",)),)
    return tuple([await _look(account, upstream, settings, seconds) for account, upstream in accounts.items()])


async def guess(url: str, told: Callable[[str], None]) -> list[Guess]:
    """Try every kind of upstream at `url` until one answers sensibly; return all that were tried, in order."""
    tried: list[Guess] = []
    for settings in _kinds_at(url):
        told(f"trying {settings.kind}")
        (account,) = await examine(settings.kind, settings, _GUESS_SECONDS)
        tried.append(Guess(settings, account))
        if account.answers_sensibly:
            break
    return tried


def _kinds_at(url: str) -> list[config.HttpUpstream]:
    found = []
    for kind in BUILDERS:
        if issubclass(kind, config.HttpUpstream):
            given: dict[str, Any] = {"base_url": url, "connect_timeout_ms": _GUESS_CONNECT_MS}
            if "discover" in {field.name for field in dataclasses.fields(kind)}:
                # Whoever names an address wants to see what is there.
                given["discover"] = True
            found.append(kind(**given))
    return found


async def _look(account: str, upstream: Upstream, settings: config.Upstream, seconds: float) -> Account:
    try:
        async with asyncio.timeout(seconds):
            await upstream.open()
            return await _answers(account, upstream, settings)
    except UpstreamFault as fault:
        return Account(account, problems=(in_words(fault, settings),))
    except TimeoutError:
        problem = f"it did not answer within {seconds:g} seconds; {_look_at(settings)}"
        return Account(account, problems=(problem,))
    except Exception as error:  # noqa: BLE001 - a server of another kind may say anything, and each adapter trips its way
        problem = f"what it answers is not understood ({type(error).__name__}: {error}); {_look_at(settings)}"
        return Account(account, problems=(problem,))
    finally:
        await upstream.close()


async def _answers(account: str, upstream: Upstream, settings: config.Upstream) -> Account:
    problems: list[str] = []
    try:
        await upstream.refresh()
    except UpstreamFault as fault:
        problems.append(f"it does not tell what it offers: {in_words(fault, settings)}")
    findings = await upstream.probe()
    problems += findings.problems
    if not upstream.models and not problems:
        problems.append("it offers no models; install one there, or name one in the settings")
    return Account(account, findings, upstream.models, tuple(problems))


def in_words(fault: UpstreamFault, settings: config.Upstream) -> str:
    """Say what a fault is and what to do about it."""
    details: Mapping[str, object] = fault.details
    said = [fault.message]
    if "status" in details:
        said.append(f"HTTP {details['status']}")
    said += [str(details[name]) for name in ("cause", "vendor_code", "vendor_message") if details.get(name)]
    return f"{'; '.join(said)}. {_advice(fault, settings)}"


def _advice(fault: UpstreamFault, settings: config.Upstream) -> str:
    if isinstance(settings, config.Embedded):
        return "Then try again."
    if fault.credential:
        return "See whether `api_key_env` or `api_key_file` names the right key."
    if fault.locked_out:
        after = fault.retry_after_seconds
        return "Wait, and try again." if after is None else f"Wait {after:g} seconds, and try again."
    if fault.outcome is Outcome.NOT_SENT:
        return f"See whether it runs at {settings.base_url}, and whether this machine may reach it."
    return f"Try again; or {_look_at(settings)}."


def _look_at(settings: config.Upstream) -> str:
    if isinstance(settings, config.Embedded):
        return "try again"
    return f"see whether {settings.base_url} is the address of a {settings.kind} server"
