"""The tables of README, from the code: `python -m tests.readme_tables` writes them anew; a test holds them fresh."""

import re
from pathlib import Path

from gateway import config
from gateway.config.upstreams import KINDS
from gateway.observe import metrics
from protocol.errors import CLOSES, ERRORS

README = Path(__file__).parent.parent / "README.md"


def tables() -> dict[str, str]:
    """Return each generated table by the name of its place."""
    return {"settings": _settings(), "upstreams": _upstreams(), "codes": _codes(), "metrics": metrics.describe()}


def rendered(text: str) -> str:
    """Return README with its tables made anew."""
    for name, table in tables().items():
        place = re.compile(rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = place.sub(lambda found, table=table: f"{found[1]}\n{table}\n\n{found[2]}", text)  # type: ignore[misc]
    return text


def _settings() -> str:
    rows = [f"| `{one.path}` | {_facts(one)} |" for one in config.describe() if not one.kinds]
    return "\n".join(["| setting | type | default | meaning |", "| --- | --- | --- | --- |", *rows])


def _upstreams() -> str:
    rows = [
        f"| `{one.path.removeprefix('upstreams.NAME.')}` | {_kinds(one.kinds)} | {_facts(one)} |"
        for one in config.describe()
        if one.kinds
    ]
    return "\n".join(["| setting | of kinds | type | default | meaning |", "| --- | --- | --- | --- | --- |", *rows])


def _facts(one: config.Setting) -> str:
    return f"{one.type} | {_code(one.default)} | {one.doc}"


def _kinds(kinds: tuple[str, ...]) -> str:
    """Name the kinds, or those that are missing where that is shorter."""
    missing = [kind for kind in KINDS if kind not in kinds]
    if len(missing) < 3:
        return f"all but {', '.join(missing)}" if missing else "all"
    return ", ".join(kinds)


def _codes() -> str:
    errors = [
        f"| `{code.name}` | {code.http} | {'yes' if code.retryable else 'no'} | {code.meaning} {code.advice} |"
        for code in ERRORS.values()
    ]
    closes = [
        f"| {close.number} `{close.name}` | {'yes' if close.reconnect else 'no'} | {close.meaning} |"
        for close in CLOSES.values()
    ]
    return "\n".join(
        [
            "| error | HTTP | retryable | meaning |",
            "| --- | --- | --- | --- |",
            *errors,
            "",
            "| close | reconnect | meaning |",
            "| --- | --- | --- |",
            *closes,
        ]
    )


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


if __name__ == "__main__":
    README.write_text(rendered(README.read_text()))
