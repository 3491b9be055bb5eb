"""The foreign issuers whose tokens are taken, read from what was given."""

import re
from typing import Final
from urllib.parse import urlsplit

from gateway.config.faults import Table
from gateway.config.given import Given, Node, place
from gateway.config.sections import Sections
from gateway.config.settings import Issuer
from gateway.config.values import dotted, shown

_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}\Z")
_NAME_ALLOWED: Final = "1-32 characters of a-z, 0-9, _ and -, a letter first"
_NEEDED: Final = ("tenant", "issuer", "audience", "jwks_url")
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def read_issuers(given: Node | Given, sections: Sections) -> dict[str, Issuer]:
    """Return the issuers by name."""
    if isinstance(given, Given):
        sections.faults.add(("issuers",), given.where, "issuers is no table", "a table of issuers by name")
        return {}
    issuers: dict[str, Issuer] = {}
    for name, node in given.items():
        path = ("issuers", name)
        if not _NAME.match(name):
            sections.faults.add(path, place(node, path), f"{shown(name)} is no name", _NAME_ALLOWED)
        elif isinstance(node, Given):
            sections.faults.add(path, node.where, f"{dotted(path)} is no table", f"a table with {', '.join(_NEEDED)}")
        else:
            issuers[name] = _issuer(Table(node, path, sections.faults), issuers, sections)
    return issuers


def _issuer(table: Table, others: dict[str, Issuer], sections: Sections) -> Issuer:
    for name in _NEEDED:
        if name not in table.node:
            table.fault(f"has no {name}", f"a table with {', '.join(_NEEDED)}")
    issuer = sections.build(Issuer, table.node, table.path)
    url = urlsplit(issuer.jwks_url)
    if url.scheme == "http" and url.hostname not in _LOOPBACK:
        # Whoever is on the way could give keys of his own, and with them be anybody.
        table.fault(f"is {shown(issuer.jwks_url)}", "an address that begins with https", "jwks_url")
    if any((one.issuer, one.audience) == (issuer.issuer, issuer.audience) for one in others.values()):
        table.fault("has the issuer and audience of another", "an audience of its own for each tenant")
    return issuer
