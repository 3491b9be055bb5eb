"""The API key of `safelight`'s commands that ask a gateway."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from gateway.cli.basics import REFUSED
from gateway.cli.keys import DEV_KEY, read_dev_key
from gateway.cli.trouble import Trouble
from gateway.core.secret import Secret


@dataclass(frozen=True, slots=True)
class Credential:
    """The API key, and where it was found."""

    key: Secret
    origin: str

    @classmethod
    def find(cls, key: str, folder: Path) -> Self:
        """Take `key`, else that of the data folder; raises `Trouble` if there is neither."""
        if key:
            return cls(Secret(key), "SAFELIGHT_API_KEY")
        path = folder / DEV_KEY
        try:
            found = read_dev_key(folder)
        except (OSError, UnicodeDecodeError):
            raise Trouble(REFUSED, f"{path} cannot be read; set SAFELIGHT_API_KEY to the gateway's key") from None
        if not found:
            raise Trouble(
                REFUSED,
                f"there is no API key: SAFELIGHT_API_KEY is not set, and there is no {path}; start a gateway with "
                "`make run`, which makes one, or name its folder with --data",
            )
        return cls(Secret(found), str(path))
