"""The check character: Luhn mod N.

Luhn's formula (US patent 2,950,048; ISO/IEC 7812-1) extended to any even number of characters, as published under
the name "Luhn mod N algorithm" (en.wikipedia.org/wiki/Luhn_mod_N_algorithm): from the right, every second character
beginning with the last is doubled, and the two digits of the double in base N are added. With ten digits it is the
formula of payment cards. It detects every single wrong character, and every swap of two neighbours except that of the
first and the last character of the alphabet. With an odd N it would not detect all wrong characters.
"""

from __future__ import annotations


class LuhnModN:
    """Check characters over one alphabet with an even number of characters."""

    def __init__(self, characters: str) -> None:
        size = len(characters)
        if size % 2:
            raise ValueError("Luhn mod N needs an even number of characters")
        self._single = {character: place for place, character in enumerate(characters)}
        self._double = {character: 2 * place // size + 2 * place % size for character, place in self._single.items()}
        self._characters = characters

    def character(self, body: str) -> str:
        """Return the check character to append to `body`. Raises KeyError for a character outside the alphabet."""
        total = sum(map(self._double.__getitem__, body[::-2])) + sum(map(self._single.__getitem__, body[-2::-2]))
        return self._characters[-total % len(self._characters)]

    def holds(self, text: str) -> bool:
        """Return whether the last character is the check character of those before it."""
        return len(text) > 1 and all(c in self._single for c in text) and self.character(text[:-1]) == text[-1]
