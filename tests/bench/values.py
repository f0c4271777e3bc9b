"""One value of an answer: what it looks like in JSON, and when two of them are the same."""

import datetime
import decimal
import math

# Floating point results are sums in another order.
RELATIVE = 1e-9


def plain(value):
    """A value from Arrow as JSON.

    Instants are ISO 8601 with `Z`, bytes hex, decimals text unless whole, and
    intervals without months as Python prints a timedelta: `6:22:54`.
    """
    if type(value).__name__ == "MonthDayNano" and not value.months:
        return str(datetime.timedelta(days=value.days, microseconds=value.nanoseconds // 1000))
    if isinstance(value, datetime.datetime):
        if value.tzinfo is None:
            return value.isoformat()
        return value.astimezone(datetime.timezone.utc).isoformat().replace("+00:00", "Z")
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return int(value) if value.as_tuple().exponent == 0 else str(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def same(ours, theirs):
    """Whether `ours`, from JSON, is the value `theirs`, from DuckDB by way of Arrow.

    Floats agree to `RELATIVE`; instants are compared as instants, whatever their
    notation; everything else is equal or not.
    """
    if ours is None or theirs is None:
        return ours is theirs
    if isinstance(theirs, bool) or isinstance(ours, bool):
        return ours is theirs
    if isinstance(theirs, datetime.datetime):
        return _instant(ours) == _utc(theirs)
    if isinstance(theirs, datetime.date):
        return _instant(ours) == _utc(datetime.datetime(theirs.year, theirs.month, theirs.day))
    if isinstance(theirs, float):
        return _close(_number(ours), theirs)
    if isinstance(theirs, decimal.Decimal):
        if theirs.as_tuple().exponent < 0 and isinstance(ours, float):
            return _close(ours, float(theirs))
        return _decimal(ours) == theirs
    if isinstance(theirs, int):
        return isinstance(ours, (int, float)) and ours == theirs
    if isinstance(theirs, dict):
        return isinstance(ours, dict) and ours.keys() == theirs.keys() and all(same(ours[k], theirs[k]) for k in theirs)
    if isinstance(theirs, list):
        return isinstance(ours, list) and len(ours) == len(theirs) and all(map(same, ours, theirs))
    return ours == plain(theirs)


def _utc(moment):
    # What has no zone is UTC, as everywhere in Anabranch.
    if moment.tzinfo is None:
        return moment.replace(tzinfo=datetime.timezone.utc)
    return moment


def _instant(text):
    try:
        return _utc(datetime.datetime.fromisoformat(text))
    except (TypeError, ValueError):
        return None


def _number(value):
    if isinstance(value, (int, float)):
        return float(value)
    # JSON has no notation for these three.
    return {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}.get(value) if isinstance(value, str) else None


def _decimal(value):
    try:
        return decimal.Decimal(str(value))
    except decimal.InvalidOperation:
        return None


def _close(ours, theirs):
    if ours is None:
        return False
    if math.isnan(ours) or math.isnan(theirs):
        return math.isnan(ours) and math.isnan(theirs)
    return math.isclose(ours, theirs, rel_tol=RELATIVE, abs_tol=0.0)
