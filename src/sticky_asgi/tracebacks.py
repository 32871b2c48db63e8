"""Lets go of what an error that has been dealt with still holds."""

from __future__ import annotations


def forget_frames(error: BaseException) -> None:
    """Let go of where an error that has been dealt with came from.

    Its traceback holds frames, these hold the exchange with its body, and that the error: a circle
    that would last until the garbage collector comes by.
    """
    error.__traceback__ = None
    for earlier in (error.__cause__, error.__context__):
        # Errors that are raised in other tasks than they come from may be each other's context.
        if earlier is not None and earlier.__traceback__ is not None:
            forget_frames(earlier)
