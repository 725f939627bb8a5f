"""The fields of a form as they were typed, what they mean, and what is wrong with them beside each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from issuer.batches.batch import InvalidBatchError, check_name
from issuer.http.pages.zones import typed_instant
from issuer.instants import InvalidInstantError
from issuer.loading.code_rows import Rejection
from issuer.names import name_problem

SHOWN: Final = "shown_"
"""Before the name of a field: the hidden field with what it showed."""


@dataclass(slots=True)
class TypedForm:
    """`values` as typed, and the first problem of each field. The methods return None for what is wrong or empty."""

    values: Mapping[str, str]
    errors: dict[str, str] = field(default_factory=dict)
    rejections: Sequence[Rejection] = ()
    """The first rows of a file that were refused, where none was accepted."""

    @classmethod
    def showing(cls, values: Mapping[str, str]) -> TypedForm:
        """Return the form of something that exists. It also sends what it showed, as `changed` reads it."""
        return cls({**values, **{SHOWN + name: value for name, value in values.items()}})

    def changed(self, *names: str) -> bool:
        """Return whether one of the fields says something else than it showed.

        The others are not changed: a time is shown in minutes, and another person may have changed them meanwhile.
        """
        return any(self.text(name) != self.values.get(SHOWN + name) for name in names)

    @property
    def shown(self) -> Mapping[str, str]:
        """What the form showed, by the names of its hidden fields."""
        return {name: value for name, value in self.values.items() if name.startswith(SHOWN)}

    def refuse(self, name: str, problem: str) -> None:
        self.errors.setdefault(name, problem[:1].upper() + problem[1:] + ("" if problem.endswith(".") else "."))

    def error(self, name: str) -> str:
        return self.errors.get(name, "")

    def text(self, name: str) -> str:
        return self.values.get(name, "").strip()

    def name(self, field_name: str = "name") -> str:
        """Return what can be the name of something."""
        text = self.text(field_name)
        problem = name_problem(text) if text else "give it a name"
        if problem is not None:
            self.refuse(field_name, problem)
        return text

    def batch_name(self) -> str:
        """Return what can be the name of a batch."""
        text = self.name()
        try:
            if "name" not in self.errors:
                check_name(text)
        except InvalidBatchError as error:
            self.refuse("name", str(error))
        return text

    def number(self, name: str, *, least: int, most: int) -> int | None:
        """Return a whole number, which may be typed with separators."""
        text = self.text(name).replace(",", "").replace(" ", "").replace("\u202f", "").replace("_", "")
        if not text:
            return None
        number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else least - 1
        if not least <= number <= most:
            self.refuse(name, f"type a whole number from {least:,} to {most:,}")
            return None
        return number

    def needed_number(self, name: str, *, least: int, most: int) -> int:
        """Return a whole number; it is refused where it is missing."""
        number = self.number(name, least=least, most=most)
        if number is None:
            self.refuse(name, f"type a whole number from {least:,} to {most:,}")
        return number or least

    def instant(self, name: str) -> datetime | None:
        """Return a time, in the zone that the field `zone` names."""
        try:
            return typed_instant(self.text(name), self.text("zone"))
        except InvalidInstantError as error:
            self.refuse(name, str(error))
            return None

    def instant_or(self, name: str, before: datetime | None) -> datetime | None:
        """Return a time as `instant`, or the one `before` where the field still shows it."""
        return self.instant(name) if self.changed(name, "zone") else before

    def checked(self, name: str) -> bool:
        return self.text(name) == "true"
