"""Times of turns: what callers write, as microseconds; a time with a zone and one without are never mixed."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta, timezone
from typing import Literal, NamedTuple, TypeAlias

from evoemb._errors import InputError, InputTypeError

Zone: TypeAlias = Literal["", "aware", "naive"]
Time: TypeAlias = datetime | date | str | int | float
"""A datetime or date, ISO 8601 text, or seconds since 1970."""

_START = datetime(1970, 1, 1, tzinfo=timezone.utc)
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_ISO = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)(:\d\d)?(\.\d+)?\s*(Z|z|[+-]\d\d:?\d\d)?")


class Instant(NamedTuple):
    """A time in microseconds since 1970, and whether it has a zone; a plain date fits both and has ``""``."""

    micros: int
    zone: Zone


def instant_of(value: object, name: str = "time") -> Instant:
    """Read a time.

    Args:
        value: A datetime, a date, ISO 8601 text, or seconds since 1970. A plain date is its midnight.
        name: What errors call it.

    Raises:
        InputError: The text is no time.
        InputTypeError: It is of another kind.
    """
    if isinstance(value, datetime):
        return _of_datetime(value)
    if isinstance(value, date):
        return Instant(_micros(datetime(value.year, value.month, value.day, tzinfo=timezone.utc)), "")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputTypeError(f"{name} is {type(value).__name__}, expected a datetime or a text in ISO 8601.")
    try:
        if isinstance(value, str):
            return _of_text(value)
        return Instant(_micros(_START + timedelta(seconds=value)), "aware")
    except (ValueError, OverflowError) as error:
        raise InputError(f'{name}={value!r:.60} is no time. Write it as "2026-11-20T09:00Z" or pass a datetime.') from (
            error
        )


def datetime_of(micros: int, zone: str) -> datetime:
    """Return the time as a datetime, in UTC where it has a zone."""
    found = _START + timedelta(microseconds=micros)
    return found.replace(tzinfo=None) if zone == "naive" else found


def now() -> int:
    """Return the present in microseconds since 1970."""
    return _micros(datetime.now(timezone.utc))


def same_zone(zone: str, other: Instant, name: str) -> Zone:
    """Return the zone that a stream has once it takes this time too.

    Raises:
        InputError: One of the two has a zone and the other has none.
    """
    if zone and other.zone and zone != other.zone:
        has = {"aware": "with a zone", "naive": "without a zone"}
        raise InputError(
            f"{name} is a time {has[other.zone]}, but this stream's times are {has[zone]}. Pass "
            + ("one with a zone, such as 2026-11-20T09:00Z." if zone == "aware" else "one without a zone.")
        )
    return other.zone or zone  # type: ignore[return-value]


def _of_datetime(value: datetime) -> Instant:
    if value.tzinfo is None:
        return Instant(_micros(value.replace(tzinfo=timezone.utc)), "naive")
    return Instant(_micros(value), "aware")


def _of_text(value: str) -> Instant:
    text = value.strip()
    if _DATE.fullmatch(text):
        return Instant(_micros(datetime.fromisoformat(text).replace(tzinfo=timezone.utc)), "")
    found = _ISO.fullmatch(text)
    if found is None:
        raise ValueError(text)
    day, minute, second, fraction, zone = found.groups()
    offset = {None: "", "Z": "+00:00", "z": "+00:00"}.get(zone, f"{zone[:3]}:{zone[-2:]}" if zone else "")
    fraction = f".{fraction[1:7]:0<6}" if fraction else ""  # Python 3.10 reads three digits or six
    return _of_datetime(datetime.fromisoformat(f"{day}T{minute}{second or ':00'}{fraction}{offset}"))


def _micros(value: datetime) -> int:
    return (value - _START) // timedelta(microseconds=1)
