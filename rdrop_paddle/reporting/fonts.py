"""Fonts for words that the usual one has no glyphs for, such as the Chinese names of classes: whatever is installed."""

import contextlib

from matplotlib import font_manager, rcParams
from matplotlib.font_manager import FontProperties, fontManager, get_font


def families_for(words):
    """(families, missing): font families that have the glyphs of `words` between them, those of rcParams first, and the
    characters that no font of this machine has. matplotlib takes a glyph from the first family that has it.
    """
    families = list(rcParams["font.family"])
    missing = {character for character in words if character.isprintable() and not character.isspace()}
    missing -= set().union(*map(_characters, map(_usual_font, families)))
    others = _installed() if missing else {}
    while others:
        # the most, and among equals one without serifs, as the usual font is; names for the same choice every time
        best = min(others, key=lambda name: (-len(missing & others[name]), "sans" not in name.lower(), name))
        if not missing & others[best]:
            break
        families.append(best)
        missing -= others.pop(best)
    return families, missing


def _usual_font(family):
    return font_manager.findfont(FontProperties(family=[family]))


def _installed():
    """{family: its characters} of all fonts, those too that were installed after matplotlib had listed them."""
    listed = {font.fname for font in fontManager.ttflist}
    for path in sorted(set(font_manager.findSystemFonts()) - listed):
        with contextlib.suppress(OSError, RuntimeError):  # no font after all
            fontManager.addfont(path)
    upright = [font for font in fontManager.ttflist if font.style == "normal"]
    # the "last resort" that matplotlib and macOS have shows every character as a box with its number
    return {font.name: _characters(font.fname) for font in upright if "resort" not in font.name.lower()}


def _characters(path):
    with contextlib.suppress(OSError, RuntimeError):
        font = get_font(path)
        return set(map(chr, font.get_charmap())) if font.scalable else set()  # pictures of a fixed size cannot be drawn
    return set()
