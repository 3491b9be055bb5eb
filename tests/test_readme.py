"""README tells every setting, code and metric, and the commands that it shows exist."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway import config
from gateway.cli.commands import main
from gateway.core.scopes import SCOPES
from gateway.core.tokens import MESSAGES
from gateway.edges.compat.a1111.tables import ERRORS as WEB_UI
from gateway.edges.compat.openai_images.tables import ERRORS as OPENAI
from gateway.edges.compat.stability_v1.tables import ERRORS as STABILITY_V1
from gateway.edges.compat.stability_v2beta.tables import ERRORS as V2BETA
from tests.readme_tables import README, rendered

DIALECTS = README.parent / "gateway" / "edges" / "compat" / "README.md"
CONTRACT = README.parent / "protocol" / "PROTOCOL.md"
DOORS = {
    "Stability AI, REST v1": {(status, name) for status, name in STABILITY_V1.values()},
    "Stability AI, v2beta stable-image": {(status, name) for status, name in V2BETA.values()},
    "OpenAI Images": {(status, code or "") for status, _, code in OPENAI.values() if status != 408},
    "AUTOMATIC1111's web UI, Forge, SD.Next": {
        (status, name if status >= 500 else "") for status, name in WEB_UI.values()
    },
}
"""Sections about dialects, and what is said there: statuses and names. 408 is of bare pictures, which OpenAI's
dialect does not have."""


def test_tables_of_readme_are_those_of_the_code() -> None:
    """Whoever adds a setting, a code or a metric runs `python -m tests.readme_tables`."""
    text = README.read_text()
    assert rendered(text) == text


def test_commands_that_readme_shows_exist() -> None:
    """Each `safelight ...` in README names a command that answers `--help`."""
    shown = set(re.findall(r"safelight ([a-z]+(?:-[a-z]+)?)", README.read_text())) & set(main.commands)
    assert {"serve", "generate", "key", "check-config"} <= shown
    for name in shown:
        assert CliRunner().invoke(main, [name, "--help"]).exit_code == 0


def test_settings_that_readme_shows_are_right(tmp_path: Path) -> None:
    """Whoever copies an example and sets the variables that it names has a gateway."""
    shown = re.findall(r"```toml\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(shown) >= 3
    for text in shown:
        path = tmp_path / "safelight.toml"
        path.write_text(text)
        keys = {name: f"sk-{name}" for name in re.findall(r'"([A-Z_]+_KEY[A-Z_]*)"', text)}
        assert config.load(path, keys).upstreams


def test_contract_tells_every_scope_and_reason() -> None:
    """The protocol's tables cannot be made of the gateway's, but they are the same."""
    contract = CONTRACT.read_text()
    for scope, allows in SCOPES.items():
        assert f"| `{scope}` | {allows} |" in contract
    for reason in MESSAGES:
        assert f"`{reason}`" in contract


def section(page: Path, title: str) -> str:
    """Return a section of a page, up to the next."""
    return re.split(r"\n##+ ", page.read_text().partition(f"# {title}\n")[2])[0]


@pytest.mark.parametrize("title", DOORS)
def test_errors_of_a_door_are_those_of_its_table(title: str) -> None:
    """Each status and name that a dialect can answer with is told, and no status that it cannot."""
    rows = re.findall(r"^\| ([1-5]\d\d(?:, [1-5]\d\d)*) \| (.*)$", section(DIALECTS, title), re.MULTILINE)
    told = {(int(status), name) for statuses, row in rows for status in statuses.split(", ")
            for name in ("", *re.findall(r"`(\w+)`", row))}  # fmt: skip
    assert DOORS[title] <= told
    assert {status for status, _ in told} == {status for status, _ in DOORS[title]}


def test_what_a_500_can_mean_is_told() -> None:
    """Every code that some dialect says 500 of, with sentences that the code has."""
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", section(README, "What a 500 can mean"), re.MULTILINE)
    told_as_500 = {
        code for table in (STABILITY_V1, V2BETA, OPENAI, WEB_UI) for code, said in table.items() if said[0] == 500
    }
    assert {code for code, _ in rows} == told_as_500
    source = "".join(path.read_text() for path in (README.parent / "gateway").rglob("*.py"))
    for sentence in (one for _, cell in rows for one in re.findall(r'"(.*?)"', cell)):
        assert sentence in source, sentence
