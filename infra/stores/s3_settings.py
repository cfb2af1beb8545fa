"""How to reach an S3 server, as plain values that may be printed, pickled and written into a config.

Holds no secret: credentials come from the normal AWS chain (environment, profile, instance role) when a
client is made. Knows neither boto3 nor the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from elder.errors import ConfigError

ADDRESSING = ("auto", "path", "virtual")
CHECKSUMS = ("when_supported", "when_required")


@dataclass(frozen=True)
class S3Settings:
    """Everything about an S3 server that is not secret."""

    endpoint_url: str | None = field(default=None, metadata={"help": "server other than Amazon's, http(s)://host:port"})
    region: str | None = field(default=None, metadata={"help": "region; default: that of the AWS configuration"})
    addressing: str = field(default="auto", metadata={"help": "bucket in the path, in the host name, or auto"})
    checksums: str = field(
        default="when_supported", metadata={"help": "when_required for servers that do not know CRC trailers"}
    )
    profile: str | None = field(default=None, metadata={"help": "named profile of the AWS configuration"})
    attempts: int = field(default=5, metadata={"help": "tries of one request before it counts as failed"})
    connect_timeout_s: float = field(default=5.0, metadata={"help": "seconds to wait for a connection"})
    read_timeout_s: float = field(default=60.0, metadata={"help": "seconds to wait for an answer"})

    def __post_init__(self) -> None:
        problems = self.problems()
        if problems:
            raise ConfigError(problems)

    def problems(self) -> list[str]:
        """Wrong values, in the user's words."""
        problems = []
        if self.endpoint_url is not None and not self.endpoint_url.startswith(("http://", "https://")):
            problems.append(f"s3.endpoint_url must begin with http:// or https://, found {self.endpoint_url!r}")
        if self.addressing not in ADDRESSING:
            problems.append(f"s3.addressing must be one of {', '.join(ADDRESSING)}, found {self.addressing!r}")
        if self.checksums not in CHECKSUMS:
            problems.append(f"s3.checksums must be one of {', '.join(CHECKSUMS)}, found {self.checksums!r}")
        if self.attempts < 1:
            problems.append(f"s3.attempts must be at least 1, found {self.attempts}")
        for name in ("connect_timeout_s", "read_timeout_s"):
            if getattr(self, name) <= 0:
                problems.append(f"s3.{name} must be more than 0, found {getattr(self, name)}")
        return problems

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> S3Settings:
        """Build settings from a section of a config; empty values mean the default.

        Raises:
            ConfigError: A key is unknown or a value is not allowed; all problems at once.
        """
        known = {f.name for f in fields(cls)}
        unknown = [f"s3.{key} is unknown (known: {', '.join(sorted(known))})" for key in sorted(set(values) - known)]
        if unknown:
            raise ConfigError(unknown)
        return cls(**{key: value for key, value in values.items() if value is not None})
