import pytest

from workbench.passphrases import WORD_BITS, generate, strength


def test_generated_ones_differ_and_count_in_full():
    made = {generate() for _ in range(100)}
    assert len(made) == 100
    for text in made:
        assert strength(text) == 6 * WORD_BITS


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("", 0, 0),
        ("password", 0, 10),
        ("Password123!", 0, 10),
        ("qwertyuiop", 0, 20),
        ("aaaaaaaaaaaaaaaa", 0, 25),
        ("12345678901234567890", 0, 35),
        ("correct horse battery staple", 40, 48),
        ("j7#Kq!2xP@9w", 70, 90),
        ("春眠不觉晓处处闻啼鸟", 100, 130),
    ],
)
def test_estimate_is_low_rather_than_high(text, low, high):
    assert low <= strength(text) <= high
