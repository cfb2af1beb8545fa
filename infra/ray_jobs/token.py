"""Ray's token: where it lies, and what to say when it is missing or wrong. Knows nothing of jobs; imports no Ray.

Since Ray 2.60 a cluster asks for a token as soon as one exists on its head; clients do not follow by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from elder.errors import UnreachableError

HOW = (
    "The token lies on the head node: `ray get-auth-token` prints it there (it is kept in ~/.ray/auth_token; "
    "on Kubernetes in the cluster's secret). Give it to this machine in one of three ways: "
    "export RAY_AUTH_TOKEN=TOKEN, or export RAY_AUTH_TOKEN_PATH=FILE, or write it to ~/.ray/auth_token"
)


@dataclass(frozen=True)
class Token:
    """A token that was found here.

    Attributes:
        value: The secret; never printed.
        place: Where it was found, for messages.
    """

    value: str = field(repr=False)
    place: str

    @property
    def header(self) -> dict[str, str]:
        """The HTTP header that carries it."""
        return {"Authorization": f"Bearer {self.value}"}


def find_token(environ: Mapping[str, str], home: Path | None = None) -> Token | None:
    """The token of this user, looked for in Ray's own order; None when there is none.

    Raises:
        UnreachableError: RAY_AUTH_TOKEN_PATH names a file that cannot be read.
    """
    direct = environ.get("RAY_AUTH_TOKEN", "").strip()
    if direct:
        return Token(direct, "RAY_AUTH_TOKEN")
    named = environ.get("RAY_AUTH_TOKEN_PATH", "").strip()
    path = Path(named).expanduser() if named else (home or Path.home()) / ".ray" / "auth_token"
    try:
        value = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        if not named:
            return None
        reason = getattr(error, "strerror", None) or error
        raise UnreachableError(f"RAY_AUTH_TOKEN_PATH names {path}, which cannot be read: {reason}. {HOW}") from error
    return Token(value, f"RAY_AUTH_TOKEN_PATH ({path})" if named else str(path)) if value else None


def missing(address: str) -> UnreachableError:
    """The cluster asks for a token and there is none here."""
    return UnreachableError(f"{address} asks for a token and none was found here. {HOW}.")


def refused(address: str, token: Token) -> UnreachableError:
    """The cluster does not take the token that was found."""
    return UnreachableError(
        f"{address} refuses the token from {token.place}: it belongs to another cluster, or to this one before it "
        f"was started anew. {HOW}; the first of the three that is set counts."
    )
