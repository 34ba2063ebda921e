"""Errors every room raises, grouped by what the caller can do about them.

A message answers four questions: what failed, where, what was expected against what was found, and what to do next.
No message may carry a token, a secret, a reply body or a personal value.
"""

from __future__ import annotations


class CdpError(Exception):
    """Base of all errors meant for users. *hint* is the next step, printed on a last line of its own."""

    code = "cdp"
    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class ConfigError(CdpError):
    """The brand's configuration is wrong; nothing has run. All faults found are told at once."""

    code = "config"
    exit_code = 5


class FatalError(CdpError):
    """Stop the step: trying again without a change gives the same result."""

    code = "fatal"


class RetriableError(CdpError):
    """The same call may go through later: back off and try again."""

    code = "retriable"


class SkippableError(CdpError):
    """This one item cannot be handled: count it, keep it in rejects with its reason, and go on."""

    code = "skippable"


class RejectBudgetError(FatalError):
    """More rows of one stream were rejected than its budget allows; what was readable has not been landed."""

    code = "reject_budget"


class CheckFailedError(FatalError):
    """A blocking check failed; the version under construction is not published."""

    code = "check_failed"
