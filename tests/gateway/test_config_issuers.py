"""Settings of foreign issuers: whose tokens are taken, and what is refused before anybody is trusted by mistake."""

from pathlib import Path

import pytest

from gateway.config import Config, Issuer, load, load_with_origins
from tests.gateway.config_files import faults_of, write

NEEDED = {
    "tenant": "acme",
    "issuer": "https://idp.example",
    "audience": "gateway",
    "jwks_url": "https://idp.example/jwks",
}
NEEDED_TEXT = "a table with tenant, issuer, audience, jwks_url"


def table(name: str = "idp", **changes: str) -> str:
    """Return an issuer as a file has it; a change is TOML, and an empty one leaves the setting out."""
    told = {key: f'"{value}"' for key, value in NEEDED.items()} | changes
    return f"[issuers.{name}]\n" + "\n".join(f"{key} = {value}" for key, value in told.items() if value) + "\n"


def test_without_issuers_nobody_is_trusted() -> None:
    """Our own tokens count and no other."""
    assert load(None, {}).issuers == Config().issuers == {}


def test_issuer_has_defaults_for_all_that_may_be_left_out(tmp_path: Path) -> None:
    """By its name; what it may sign with has only public keys."""
    assert load(write(tmp_path, table()), {}).issuers == {
        "idp": Issuer("acme", "https://idp.example", "gateway", "https://idp.example/jwks")
    }


def test_effective_issuers_are_a_settings_file(tmp_path: Path) -> None:
    """What `check-config` prints gives the same again."""
    text = table(scope_claim='"scp"', scopes='{ "images:write" = "generate" }', algorithms='["ES384"]')
    settings, effective = load_with_origins(write(tmp_path, text), {})
    assert settings.issuers["idp"].scopes == {"images:write": "generate"}
    again = write(tmp_path, "\n".join(one.line() for one in effective))
    assert load(again, {}) == settings


@pytest.mark.parametrize(
    "text,fault",
    [
        ("issuers = 3", "issuers is no table; allowed: a table of issuers by name"),
        ("[issuers]\nidp = 3", f"issuers.idp is no table; allowed: {NEEDED_TEXT}"),
        (table("Idp"), '"Idp" is no name'),
        *((table(**{name: ""}), f"issuers.idp has no {name}; allowed: {NEEDED_TEXT}") for name in NEEDED),
        (table(jwks_url='"http://idp.example/jwks"'), "allowed: an address that begins with https"),
        (table(jwks_url='"idp.example"'), 'issuers.idp.jwks_url is "idp.example"'),
        (table(algorithms='["HS256"]'), 'issuers.idp.algorithms is ["HS256"]'),
        (table(algorithms='["none"]'), 'issuers.idp.algorithms is ["none"]'),
        (table(algorithms="[]"), "issuers.idp.algorithms is []"),
        (table(scopes='{ a = "admin" }'), "issuers.idp.scopes is"),
        (table(secret='"x"'), "issuers.idp.secret is no setting"),
        (table(audiense='"x"'), "did you mean issuers.idp.audience?"),
        (table() + table("twin"), "issuers.twin has the issuer and audience of another"),
    ],
)
def test_wrong_issuer_is_told(tmp_path: Path, text: str, fault: str) -> None:
    """With what is allowed."""
    told = faults_of(write(tmp_path, text), {})
    assert any(fault in line for line in told), told


def test_issuer_on_this_machine_may_do_without_https(tmp_path: Path) -> None:
    """Nobody is on the way."""
    for host in ("localhost", "127.0.0.1:8000", "[::1]:8000"):
        path = write(tmp_path, table(jwks_url=f'"http://{host}/jwks"'))
        assert load(path, {}).issuers["idp"].jwks_url == f"http://{host}/jwks"
