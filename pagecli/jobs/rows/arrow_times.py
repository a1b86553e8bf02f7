"""Dates and times of Arrow as ISO 8601 text: any value, also of years that Python cannot say, in one form for a whole type.

A fraction has as many digits as the type's unit says (none for seconds, 3, 6, 9), zeros too. Years outside 0 to 9999 have a
sign (ISO 8601-1:2019, 4.3.2, expanded representation). Instants get the offset of their time zone; +00:00 where the zone is
not known or the year is outside Python's 1 to 9999.
"""

import datetime
from functools import lru_cache

import pyarrow as pa

UNIT_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}  # decimal digits of a second
DAY_SECONDS = 86_400
EPOCH_ORDINAL = datetime.date(1970, 1, 1).toordinal()
CYCLE_YEARS, CYCLE_DAYS = 400, 146_097  # after which the Gregorian calendar repeats


def date_text(days: int) -> str:
    """The date `days` after 1970-01-01, in the proleptic Gregorian calendar."""
    cycles, day = divmod(days + EPOCH_ORDINAL - 1, CYCLE_DAYS)
    date = datetime.date.fromordinal(day + 1)
    year = date.year + CYCLE_YEARS * cycles
    shown = f"{year:04d}" if 0 <= year <= 9999 else f"{year:+05d}"
    return f"{shown}-{date.month:02d}-{date.day:02d}"


def time_text(value: int, unit: str) -> str:
    """A time of day; 24 hours and more, and times before midnight, are shown as what they are."""
    digits = UNIT_DIGITS[unit]
    seconds, fraction = divmod(abs(value), 10**digits)
    text = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return f"{'-' if value < 0 else ''}{text}{f'.{fraction:0{digits}d}' if digits else ''}"


def timestamp_text(value: int, unit: str, zone: str | None) -> str:
    """`value` units after 1970-01-01T00:00:00, in UTC if there is a zone."""
    per_second = 10 ** UNIT_DIGITS[unit]
    offset = 0 if zone is None else _offset_seconds(value // per_second, zone)
    days, rest = divmod(value + offset * per_second, DAY_SECONDS * per_second)
    text = f"{date_text(days)}T{time_text(rest, unit)}"
    return text if zone is None else text + _offset_text(offset)


def duration_seconds(value: int, unit: str) -> float:
    return value / 10 ** UNIT_DIGITS[unit]


def _offset_seconds(seconds: int, zone: str) -> int:
    """What the zone's clocks are ahead of UTC at `seconds` after 1970."""
    tz = _zone(zone)
    try:
        there = datetime.datetime.fromtimestamp(seconds, tz)
    except (OverflowError, ValueError, OSError):  # outside Python's years
        return 0
    return round((there.utcoffset() or datetime.timedelta()).total_seconds())


@lru_cache(maxsize=64)
def _zone(name: str) -> datetime.tzinfo:
    try:
        zone: datetime.tzinfo = pa.lib.string_to_tzinfo(name)
        return zone
    except Exception:  # an unknown name, or no database of zones on this machine
        return datetime.UTC


def _offset_text(offset: int) -> str:
    hours, rest = divmod(abs(offset), 3600)
    seconds = f":{rest % 60:02d}" if rest % 60 else ""
    return f"{'-' if offset < 0 else '+'}{hours:02d}:{rest // 60:02d}{seconds}"
