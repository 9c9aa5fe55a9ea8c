"""Numbers and names as a person reads them."""

from __future__ import annotations

import math

MINUS = "\u2212"
NARROW = "\u202f"  # narrow no-break space: groups digits, and stands before a unit


def number(value: float, digits: int = 3) -> str:
    """`value` with about `digits` significant figures, never more than it needs."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else MINUS + "∞"
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 1e7 or size < 10.0**-digits:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", MINUS)
    if size >= 1000:
        return f"{value:,.0f}".replace(",", NARROW).replace("-", MINUS)
    if size < 0.01:  # two more places, where there is something in them
        text = f"{value:.{digits + 2}f}".rstrip("0")
        short = digits + 1 - len(text.partition(".")[2])
        return (text + "0" * (short - 1)).replace("-", MINUS)
    places = digits if size < 1 else max(0, digits - 1 - math.floor(math.log10(size)))
    return f"{value:.{places}f}".replace("-", MINUS)


def percent(fraction: float, places: int = 1) -> str:
    """0.978 is 97.8 %."""
    if not math.isfinite(fraction):
        return number(fraction)
    return f"{fraction * 100:.{places}f}{NARROW}%".replace("-", MINUS)


def signed(text: str) -> str:
    """A plus where there is no minus; neither at nothing."""
    if not text.strip("0." + MINUS):
        return text.lstrip(MINUS)
    return text if text.startswith(MINUS) else f"+{text}"


def within_sentence(title: str) -> str:
    """A title as it stands inside a sentence: "Learning rate" is "learning rate"."""
    return title[:1].lower() + title[1:] if title[1:2].islower() else title


def tick(value: float, step: float) -> str:
    """The label of an axis tick, with as many places as ticks `step` apart need."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e10:
        return f"{value:.3g}".replace("e+", "e").replace("-", MINUS)
    if size >= 1e6:
        return f"{value / 1e6:g}M".replace("-", MINUS)
    if size >= 10_000:
        return f"{value / 1e3:g}k".replace("-", MINUS)
    if size < 1e-3 and step < 1e-4:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e").replace("-", MINUS)
    places = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    return f"{value:.{places}f}".replace("-", MINUS)
