"""`safelight upstream probe`: what an upstream is, what is wrong with it, and whether it makes a picture."""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from gateway.builders import BUILDERS
from gateway.cli.basics import CANCELED, DONE, FAILED, REFUSED, run
from gateway.cli.examine import Account, Guess, examine, guess
from gateway.cli.files import Target, write_whole
from gateway.cli.job import Picture, money
from gateway.cli.show import Lines, choose_display, columns
from gateway.cli.trial import TASK, Trial, draw, first_model
from gateway.cli.trouble import Trouble
from gateway.cli.wish import Wish
from gateway.config import Config, Upstream
from gateway.core.models import Model

_URL: Final = re.compile(r"https?://[^/?#\s@]+(/[^?#\s]*)?\Z")


class Probe:
    """One run of the command; what it prints on standard output is all text, or one JSON object at its end."""

    def __init__(
        self, settings: Config, *, generate: bool, is_agreed: bool, output: Path | None, as_json: bool
    ) -> None:
        self._settings = settings
        self._generates = generate
        self._is_agreed = is_agreed
        self._output = output
        self._as_json = as_json
        self._told: dict[str, Any] = {}
        self._is_well = True

    def run(self, what: str) -> int:
        """Look at the upstream of that name, or at what answers at that URL; return the exit status."""
        status, trouble = DONE, ""
        try:
            if looks_like_url(what):
                name, upstream, accounts = self._guessed(url_of(what))
            else:
                name, upstream, accounts = self._named(what)
            if self._generates:
                self._generate(name, upstream, accounts)
        except Trouble as fault:
            status, trouble = fault.status, str(fault)
        except (KeyboardInterrupt, asyncio.CancelledError):
            status, trouble = CANCELED, "left"
        if self._as_json and self._told:
            click.echo(msgspec.json.format(msgspec.json.encode(self._told)).decode())
        if trouble:
            Lines().say(f"safelight: {trouble}")
        return status if status != DONE or self._is_well else FAILED

    def _named(self, name: str) -> tuple[str, Upstream, Sequence[Account]]:
        upstream = self._settings.upstreams.get(name)
        if upstream is None:
            names = ", ".join(self._settings.upstreams)
            raise Trouble(REFUSED, f"there is no upstream {name} in the settings; there are: {names}; or give a URL")
        if type(upstream) not in BUILDERS:
            raise Trouble(REFUSED, f"this version cannot speak to upstreams of kind {upstream.kind}")
        accounts = run(examine(name, upstream))
        self._tell(f"{name} ({upstream.kind})", {"upstream": name, **_where(upstream)}, accounts)
        return name, upstream, accounts

    def _guessed(self, url: str) -> tuple[str, Upstream, Sequence[Account]]:
        tried = run(guess(url, (lambda _: None) if self._as_json else Lines().say))
        best = tried[-1]
        if not best.account.answers_sensibly:
            self._told = {"url": url, "tried": {one.settings.kind: list(one.account.problems) for one in tried}}
            raise Trouble(
                FAILED,
                "\n".join([f"nothing at {url} can be used as an upstream; what each kind found:", *_reasons(tried)]),
            )
        accounts = (best.account,)
        self._tell(f"{url} is {best.settings.kind}", {"url": url, **_where(best.settings)}, accounts)
        self._say("", "for the settings:", *(f"  {line}" for line in _snippet(best)))
        return best.settings.kind, best.settings, accounts

    def _tell(self, title: str, facts: dict[str, Any], accounts: Sequence[Account]) -> None:
        self._told = {**facts, "accounts": [_account_json(account) for account in accounts]}
        self._is_well = all(not account.problems for account in accounts)
        currency = self._settings.protocol.currency
        self._say(title)
        for account in accounts:
            if len(accounts) > 1:
                self._say(f"account {account.name}")
            self._say(*(f"  {line}" for line in _account_lines(account, currency)))

    def _say(self, *lines: str) -> None:
        if not self._as_json:
            for line in lines:
                click.echo(line)

    def _generate(self, name: str, upstream: Upstream, accounts: Sequence[Account]) -> None:
        account = next((one for one in accounts if one.models), None)
        model = None if account is None else first_model(account.models)
        if account is None or model is None:
            raise Trouble(FAILED, f"no picture was made: no model here does {TASK}")
        target = Target.of(Wish(prompt=f"probe {name}", output=self._output))
        if not self._is_allowed(model):
            self._say("no picture was made")
            return
        display = choose_display(as_json=False)
        with display:
            trial = run(draw(name, upstream, account.name, model, display))
        path = target.paths({0: Picture(format=trial.picture.format)}, 1)[0]
        try:
            write_whole(path, trial.picture.content)
        except OSError as error:
            raise Trouble(FAILED, f"{path} cannot be written ({error.strerror}); write elsewhere with -o") from None
        self._told["picture"] = _trial_json(path, trial)
        size = f"{trial.picture.width}x{trial.picture.height}"
        self._say("", f"{path}  {size}  {trial.model}  {trial.seconds:.1f} s  {trial.course.steps_text()}")

    def _is_allowed(self, model: Model) -> bool:
        """Ask before money is spent; raises `Trouble` where nobody can be asked."""
        if self._is_agreed or not (model.billed or model.price(TASK)):
            return True
        price = money(model.price(TASK), self._settings.protocol.currency) if model.price(TASK) else "money"
        try:
            return click.confirm(f"A picture of {model.id} costs {price}. Make one?", err=True)
        except click.Abort:
            Lines().say("")
            sentence = f"no picture was made: one of {model.id} costs {price}; agree to that with --yes"
            raise Trouble(REFUSED, sentence) from None


def looks_like_url(what: str) -> bool:
    """Whether that is an address and not a name of the settings, which has none of these."""
    return any(sign in what for sign in (":", "/", "."))


def url_of(what: str) -> str:
    """Return what a person typed or copied as the address of a server; raises `Trouble`."""
    url = what if "://" in what else f"http://{what}"
    url = url.split("#", 1)[0].split("?", 1)[0].rstrip("/")
    if not _URL.match(url):
        raise Trouble(REFUSED, f"{what!r} is no address; write it as http://127.0.0.1:8188")
    return url


def _where(upstream: Upstream) -> dict[str, str]:
    address = getattr(upstream, "base_url", "")
    return {"kind": upstream.kind, **({"address": address} if address else {})}


def _reasons(tried: Sequence[Guess]) -> list[str]:
    lines = [f"  {one.settings.kind}: {one.account.problems[0]}" for one in tried if one.account.problems]
    return [*lines, "  A server that wants a key is probed by its name in the settings: safelight upstream probe NAME"]


def _snippet(best: Guess) -> list[str]:
    return [
        f"[upstreams.{best.settings.kind}]",
        f'kind = "{best.settings.kind}"',
        f'base_url = "{best.settings.base_url}"',
    ]


def _account_lines(account: Account, currency: str) -> list[str]:
    lines = [account.findings.server, *account.findings.facts] if account.findings is not None else []
    if account.models:
        rows = [(model.id, ",".join(sorted(model.tasks)), _price(model, currency)) for model in account.models]
        lines += ["models:", *(f"  {line}" for line in columns(rows))]
    return [*lines, *(f"problem: {problem}" for problem in account.problems)] + ["no problems"] * (not account.problems)


def _price(model: Model, currency: str) -> str:
    prices = sorted({model.price(task) for task in model.tasks})
    if not any(prices):
        return "price unknown" if model.billed else "free"
    return "-".join(money(micros, "") for micros in (prices[0], *prices[1:][-1:])) + f" {currency}"


def _account_json(account: Account) -> dict[str, Any]:
    findings = account.findings
    return {
        "account": account.name,
        "server": None if findings is None else findings.server,
        "facts": [] if findings is None else list(findings.facts),
        "problems": list(account.problems),
        "models": [
            {"id": model.id, "vendor_model": model.vendor_model, "tasks": sorted(model.tasks), "billed": model.billed}
            for model in account.models
        ],
    }


def _trial_json(path: Path, trial: Trial) -> dict[str, Any]:
    return {
        "path": str(path),
        "model": trial.model,
        "w": trial.picture.width,
        "h": trial.picture.height,
        "seed": trial.seed,
        "seconds": round(trial.seconds, 3),
        "steps": trial.course.steps,
        "steps_seen": len(trial.course.steps_seen),
        "previews": trial.course.previews,
    }
