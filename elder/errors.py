"""The errors a user can meet. They carry sentences, not stack traces.

Knows nothing of torch, Ray, stores or the command line; the command line maps the classes to exit codes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from elder.redact import redact

LONGEST = 3000  # characters of one problem; what is quoted in it may be a whole file
LOOKED_AT = 4 * LONGEST  # characters of its beginning, and of its end, that are searched for secrets


def _shown(text: str) -> str:
    return redact(text).encode(errors="backslashreplace").decode()


def _ends(text: str) -> str:
    """Beginning and end of a very long text, cut between words, so that no part of a secret is left at the cut."""
    if len(text) <= 2 * LOOKED_AT:
        return text
    begin, end = text[:LOOKED_AT].rpartition(" ")[0], text[-LOOKED_AT:].partition(" ")[2]
    return f"{begin} [...] {end}"


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 500]} [...] {text[-400:]}"


class ElderError(Exception):
    """Base class: the job failed for a reason that the message explains (exit code 1).

    No message holds a login, whatever it quotes, and every one can be printed.
    """

    def __init__(self, *parts: object) -> None:
        super().__init__(*(_shown(part) if isinstance(part, str) else part for part in parts))


class InputError(ElderError):
    """Something that the user gave is wrong; nothing has been started or written (exit code 2).

    Collects every problem that was found, so that a user fixes a file once, not once for each line.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        given = (problems,) if isinstance(problems, str) else problems
        self.problems: tuple[str, ...] = tuple(_shortened(_shown(_ends(problem))) for problem in given)
        super().__init__("\n".join(self.problems))


class ConfigError(InputError):
    """A config file, an override or an option is wrong."""


class FormerNameWarning(FutureWarning):
    """A key or a value is written with the name that it had in an earlier version; the command line shows it."""


class DataError(InputError):
    """A file of edits is wrong; every problem names the file and the line."""


class ModelError(InputError):
    """A base model cannot be loaded or does not have the parts that a method needs."""


class SolverError(ElderError):
    """A closed-form update has no sound solution; nothing was written to any weight."""


class AdapterError(ElderError):
    """An adapter is damaged, of another format, or belongs to another base model."""


class AdapterFileError(AdapterError, InputError):
    """So is one in a directory that the user gave: nothing has been started (exit code 2)."""


class UnreachableError(ElderError):
    """A cluster, store or tracking server does not answer or refuses us (exit code 3)."""


class RunTakenOver(ElderError):
    """Another driver owns the run now: this one leaves store and record to it (exit code 5)."""


class GateError(ElderError):
    """A quality gate refused a stage or a promotion (exit code 4)."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and the errors behind it, the outermost first; Ray keeps what a worker raised in `cause`."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        inner = getattr(error, "cause", None)
        error = error.__cause__ or (inner if isinstance(inner, BaseException) else None) or error.__context__
