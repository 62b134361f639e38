"""The page's colours, light and dark: contrast as WCAG 2.2 has it, 4.5 for text (1.4.3), 3 for controls (1.4.11)."""

from __future__ import annotations

import re

import pytest

from trioserve.demo.app import STATIC

STYLE = (STATIC / "style.css").read_text(encoding="utf-8")


def colours(css: str) -> dict[str, str]:
    return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{3,6});", css))


LIGHT, DARK = (colours(block) for block in re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL))


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted(map(luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("text", "ground", "least"),
    [
        ("ink", "paper", 4.5),
        ("ink", "raised", 4.5),
        ("ink", "accent-soft", 4.5),
        ("ink", "warn-soft", 4.5),
        ("quiet", "paper", 4.5),
        ("quiet", "raised", 4.5),
        ("accent", "raised", 4.5),
        ("accent", "accent-soft", 4.5),
        ("warn", "paper", 4.5),
        ("warn", "raised", 4.5),
        ("warn", "warn-soft", 4.5),
        ("mark-ink", "mark", 4.5),
        ("field", "raised", 3),
        ("accent", "paper", 3),
    ],
)
def test_what_is_read_and_operated_has_contrast_enough(scheme, text, ground, least):
    assert contrast(scheme[text], scheme[ground]) >= least


def test_every_colour_has_its_counterpart_in_the_dark():
    assert LIGHT.keys() == DARK.keys()
