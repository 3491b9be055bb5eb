"""Brings the packages that the atlas is made from, and reads them."""

import hashlib
import json
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Package:
    """An npm package of exactly one version."""

    name: str
    version: str
    sha256: str

    @property
    def archive(self) -> str:
        """The file name that `npm pack` gives it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


NOTO: Final = Package("@iconify-json/noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad")
"""Drawings of Noto Emoji, Apache-2.0."""
KEYWORDS: Final = Package("emojilib", "4.0.3", "7f9a6b43cff31d18985b7d65d11faba5bd971cbcc60020cf6d09322fbaaaf303")
"""English keywords, MIT."""
NAMES: Final = Package("emojibase-data", "17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a")
"""Chinese names and keywords (of Unicode's CLDR) and groups of emoji, MIT."""
PACKAGES: Final = (NOTO, KEYWORDS, NAMES)


def fetch(package: Package, folder: Path) -> Path:
    """Return the package's archive in `folder`, asking npm for it if it isn't there; raises ValueError if it differs.

    Raises CalledProcessError or FileNotFoundError if npm can't help.
    """
    path = folder / package.archive
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", "--silent", "--pack-destination", str(folder), f"{package.name}@{package.version}"]
        subprocess.run(command, check=True, capture_output=True)  # whichever npm the user has
    if hashlib.sha256(path.read_bytes()).hexdigest() != package.sha256:
        raise ValueError(f"{path} is not the {package.name} {package.version} that the atlas was made from")
    return path


def read(archive: Path, member: str) -> Any:
    """Return the JSON in one file of a package; raises KeyError if there is none of that name."""
    with tarfile.open(archive) as packed:
        file = packed.extractfile(f"package/{member}")
        assert file is not None, "a package's members are files"
        return json.load(file)


@dataclass(frozen=True, slots=True)
class Drawing:
    """An icon as the packages describe it, not yet drawn or weighed."""

    name: str
    category: str
    body: str
    """What stands inside its `<svg>`."""
    aliases: tuple[str, ...]
    group: str
    """Unicode's subgroup, such as "animal-mammal"; empty for the newest emoji."""
    english: tuple[str, ...]
    """Keywords, the first of them Unicode's name; empty for the newest emoji."""
    chinese: tuple[str, ...]
    """The same in simplified Chinese."""


def drawings(folder: Path) -> Iterator[Drawing]:
    """Give every icon that the set shows, in no particular order; raises as `fetch` does."""
    noto, keywords, names = (fetch(package, folder) for package in PACKAGES)
    icons = read(noto, "icons.json")
    aliases: dict[str, list[str]] = {}
    for alias, told in icons["aliases"].items():
        aliases.setdefault(told["parent"], []).append(alias)
    codes: dict[str, list[str]] = {}
    for code, name in read(noto, "chars.json").items():
        codes.setdefault(name, []).append(_bare(code))
    english = {_code(emoji): words for emoji, words in read(keywords, "dist/emoji-en-US.json").items()}
    chinese = {_bare(entry["hexcode"].lower()): entry for entry in read(names, "zh/data.json")}
    groups = read(names, "meta/groups.json")["subgroups"]
    for category, members in read(noto, "metadata.json")["categories"].items():
        for name in members:
            known = next((code for code in codes[name] if code in chinese), "")
            entry = chinese.get(known, {})
            yield Drawing(
                name=name,
                category=category,
                body=icons["icons"][name]["body"],
                aliases=tuple(sorted(aliases.get(name, ()))),
                group=groups[str(entry["subgroup"])] if "subgroup" in entry else "",
                english=tuple(english.get(known, ())),
                chinese=(entry["label"], *entry.get("tags", ())) if entry else (),
            )


def _bare(code: str) -> str:
    """A sequence of code points without those that only ask for colours."""
    return code.lower().replace("-fe0f", "")


def _code(emoji: str) -> str:
    return _bare("-".join(f"{ord(letter):x}" for letter in emoji))
