"""How long learning will still take on this machine, in plain words, once a few steps have told."""

from __future__ import annotations

from .learned import Step

TELLING = 10  # steps after which their pace is taken for that of the others
MINUTE, HOUR = 60, 60  # seconds, minutes


def outlook(first: Step, last: Step) -> str:
    """From the steps between the two, with all that was done between them; empty while they are too few."""
    taken = last.step - first.step
    if taken < TELLING - 1:
        return ""
    seconds = (last.steps - last.step) * (last.seconds - first.seconds) / taken
    return f"{last.step} of {last.steps} steps, about {duration(seconds)} left on this machine."


def duration(seconds: float) -> str:
    if seconds < MINUTE:
        return _counted(max(1, round(seconds)), "second")
    minutes = round(seconds / MINUTE)
    if minutes < HOUR:
        return _counted(minutes, "minute")
    hours, rest = divmod(minutes, HOUR)
    return f"{_counted(hours, 'hour')} and {_counted(rest, 'minute')}" if rest else _counted(hours, "hour")


def _counted(number: int, unit: str) -> str:
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"
