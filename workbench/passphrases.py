"""How hard a passphrase is to guess, and passphrases that are."""

from __future__ import annotations

import itertools
import math
import re
import secrets

_CONSONANTS = "bdfghjklmnprstvz"
_VOWELS = "aiou"
WORD_BITS = 16.0
"""Bits of one generated word: consonant, vowel, consonant, vowel, consonant (Wilkerson 2009,
"A proposal for proquints": 4 + 2 + 4 + 2 + 4)."""

_GENERATED = re.compile(f"[{_CONSONANTS}][{_VOWELS}][{_CONSONANTS}][{_VOWELS}][{_CONSONANTS}]")
_COMMON = re.compile(
    "password|passwort|passphrase|qwerty|azerty|letmein|welcome|admin|secret|iloveyou|dragon|"
    "monkey|crucible|abc|woaini|1?23456789?|(.)\\1*"
)
_ROWS = ("abcdefghijklmnopqrstuvwxyz", "0123456789", "qwertyuiop", "asdfghjkl", "zxcvbnm")
_DICTIONARY_BITS = 11.0
"""What a word that somebody thought of is worth: one of the 2,000 most usual."""


def generate(words: int = 6) -> str:
    """A passphrase of pronounceable words, 16 random bits each."""
    return "-".join(
        "".join(secrets.choice(_VOWELS if i % 2 else _CONSONANTS) for i in range(5))
        for _ in range(words)
    )


def strength(text: str) -> float:
    """Bits: the logarithm of the number of guesses, estimated low rather than high."""
    if not text:
        return 0.0
    words = [word for word in re.split(r"[\s\-_.,;]+", text) if word]
    if len(words) > 1 and all(_GENERATED.fullmatch(word) for word in words):
        return WORD_BITS * len(words)
    if len(words) > 2:
        return sum(min(_DICTIONARY_BITS, _by_characters(word)) for word in words)
    return _by_characters(text)


def _by_characters(text: str) -> float:
    plain = text.lower()
    if _COMMON.fullmatch(plain) or _COMMON.fullmatch(plain.strip("!?. 0123456789")):
        return 8.0
    pool = 0
    for kind, size in ((r"[a-z]", 26), (r"[A-Z]", 26), (r"[0-9]", 10), (r"[^\w]", 33)):
        pool += size if re.search(kind, text, re.ASCII) else 0
    if re.search(r"[^\x00-\x7f]", text):
        pool += 3000  # ideographs in use
    each = math.log2(max(pool, 2))
    # A character that only continues what stands before it hardly has to be guessed.
    bits = each
    for before, here in itertools.pairwise(text.lower()):
        bits += 1.0 if here == before or _follows(before, here) else each
    return bits


def _follows(before: str, here: str) -> bool:
    return any(before + here in row or here + before in row for row in _ROWS)
