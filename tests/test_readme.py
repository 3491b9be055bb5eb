"""README tells every setting, code and metric, and the commands that it shows exist."""

import re
from pathlib import Path

from click.testing import CliRunner

from gateway import config
from gateway.cli.commands import main
from gateway.core.scopes import SCOPES
from gateway.core.tokens import MESSAGES
from tests.readme_tables import README, rendered

CONTRACT = README.parent / "protocol" / "PROTOCOL.md"


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
