"""Which engines a run needs, and which it may do without."""

from pathlib import Path

import pytest

from tests.engines import ENGINES, Engine, named_in, required


@pytest.mark.parametrize(
    "setting, names",
    [("", set()), ("node", {"node"}), (" node , clang,", {"node", "clang"}), ("all", set(ENGINES))],
)
def test_setting_names_required_engines(setting: str, names: set[str]) -> None:
    """SAFELIGHT_REQUIRE is a list with commas, or `all`."""
    assert names == required(setting)


def test_setting_with_unknown_engine_is_refused() -> None:
    """A misspelt engine must not pass for one that is not required."""
    with pytest.raises(ValueError, match="names no engine: nodes"):
        required("node,nodes")


def test_only_engines_that_a_test_names_are_wanted(tmp_path: Path) -> None:
    """Nothing is installed for a marker that no test bears."""
    folder = tmp_path / "clients"
    folder.mkdir()
    # The marker is put together here, or this very file would name the engine.
    (folder / "test_client.py").write_text("@pytest.mark." + "godot\ndef test_it(): ...\n")
    assert [ENGINES["godot"]] == named_in(tmp_path)


def test_engine_is_missing_unless_each_group_has_a_program() -> None:
    """One program of each group suffices, but none of a group is too few."""
    assert not Engine("shell", (("no-such-program", "sh"),), ()).is_missing()
    assert Engine("shell", (("sh",), ("no-such-program",)), ()).is_missing()
