"""Makes the fonts of this folder from Inter and Noto Sans CJK. Run it after a translation changed.

    python -m venv /tmp/fonts && /tmp/fonts/bin/pip install fonttools
    /tmp/fonts/bin/python resources/fonts/subset.py INTER_FOLDER NOTO_FOLDER

INTER_FOLDER holds Inter-Regular.otf and so on (Debian: fonts-inter), NOTO_FOLDER holds
NotoSansCJK-Regular.ttc and -Bold.ttc (Debian: fonts-noto-cjk). Both are under the OFL, see OFL.txt.

- Inter keeps the Latin, Greek and mathematical characters. Its tabular figures become the ordinary
  ones: a style sheet cannot ask for an OpenType feature, and numbers that change must not dance.
- Of Noto Sans SC remain the characters of the translations and common punctuation. It gets a name
  of its own, so that it neither hides nor is hidden by a complete one on the system.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTCollection, TTFont

HERE = Path(__file__).parent
WEIGHTS = ("Regular", "Medium", "SemiBold", "Bold")
INTER_RANGES = (
    (0x20, 0x17F),
    (0x2B0, 0x2FF),
    (0x300, 0x36F),
    (0x370, 0x3FF),
    (0x1E00, 0x1EFF),
    (0x2000, 0x206F),
    (0x2070, 0x209F),
    (0x20A0, 0x20BF),
    (0x2100, 0x214F),
    (0x2190, 0x21FF),
    (0x2200, 0x22FF),
    (0x2300, 0x23FF),
    (0x25A0, 0x25FF),
    (0x2600, 0x27BF),
)
PUNCTUATION = "，。、；：？！“”‘’（）《》〈〉【】「」—…·～￥％＋－×÷＝／"
SC_FACE = 2
SC_FAMILY = "Crucible Sans SC"


def main(inter: Path, noto: Path) -> None:
    for weight in WEIGHTS:
        font = TTFont(inter / f"Inter-{weight}.otf")
        tabular_by_default(font)
        points = {c for low, high in INTER_RANGES for c in range(low, high + 1)}
        save(font, points, HERE / f"Inter-{weight}.otf")
    points = {ord(c) for c in translated() + PUNCTUATION if ord(c) >= 0x2E80} | {
        ord(c) for c in PUNCTUATION
    }
    for weight in ("Regular", "Bold"):
        font = TTCollection(noto / f"NotoSansCJK-{weight}.ttc").fonts[SC_FACE]
        rename(font, SC_FAMILY, weight)
        save(font, points, HERE / f"CrucibleSansSC-{weight}.otf")


def translated() -> str:
    """Every character of the translations, keys and all."""
    file = HERE.parent / "translations" / "zh.json"
    return json.dumps(json.loads(file.read_text("utf-8")), ensure_ascii=False)


def tabular_by_default(font: TTFont) -> None:
    """Let the digits, plus and minus stand for their tabular forms."""
    swap: dict[str, str] = {}
    table = font["GSUB"].table
    for record in table.FeatureList.FeatureRecord:
        if record.FeatureTag == "tnum":
            for index in record.Feature.LookupListIndex:
                for part in table.LookupList.Lookup[index].SubTable:
                    swap.update(getattr(part, "ExtSubTable", part).mapping)
    characters = "0123456789+\u2212"
    for cmap in font["cmap"].tables:
        for character in characters:
            name = cmap.cmap.get(ord(character))
            if name in swap:
                cmap.cmap[ord(character)] = swap[name]
    widths, names = font["hmtx"].metrics, font.getBestCmap()
    digits = [names[ord(digit)] for digit in "0123456789"]
    width = max(widths[name][0] for name in digits)  # a few are a unit narrower
    for name in digits:
        widths[name] = (width, widths[name][1])


def rename(font: TTFont, family: str, style: str) -> None:
    names = {1: family, 2: style, 4: f"{family} {style}", 6: f"{family}-{style}".replace(" ", "")}
    for record in list(font["name"].names):
        if record.nameID in names:
            record.string = names[record.nameID]
        elif record.nameID in (16, 17):
            font["name"].names.remove(record)
    if "CFF " in font:
        font["CFF "].cff.fontNames = [names[6]]


def save(font: TTFont, points: set[int], target: Path) -> None:
    options = Options()
    options.layout_features = ["kern", "mark", "mkmk", "ccmp", "locl", "case"]
    options.name_IDs = [0, 1, 2, 4, 6, 13, 14, 16, 17]
    options.name_languages = [0x409]
    options.hinting = False
    options.desubroutinize = False
    options.notdef_outline = True
    options.drop_tables += ["DSIG", "VORG", "vhea", "vmtx", "BASE"]
    subsetter = Subsetter(options)
    subsetter.populate(unicodes=points)
    subsetter.subset(font)
    font.save(target)
    print(f"{target.name}: {target.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
