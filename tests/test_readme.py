"""README tells every setting, code and metric, and the commands that it shows exist."""

import re

from click.testing import CliRunner

from gateway.cli import main
from tests.readme_tables import README, rendered


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
