"""The request by which the parts of a sampling become one."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class JoinRequest:
    """Put the parts of a sampling together."""
