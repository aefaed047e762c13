"""How a server describes its settings: once, in the fields of a dataclass.

The options and variables of the command line, the checks, and docs/settings.md derive from these fields. This module
and those that define settings import nothing that is slow to load, since `--help` loads them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, Final, Self, TypeVar, get_args, get_origin, get_type_hints

from zoofleet.errors import InvalidArgumentError

__all__ = ["Setting", "Settings", "setting", "settings_of"]

_KEY: Final = "setting"
_LARGER_UNITS: Final = {
    "seconds": ((86_400, "d"), (3_600, "h"), (60, "min")),
    "bytes": ((2**30, "GiB"), (2**20, "MiB")),
}

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The description of one setting.

    Attributes:
        help: what the setting does, as one or more sentences.
        unit: what a number counts, as a plural such as `seconds`; empty for text.
        minimum: smallest number that is accepted; None where `more_than` says it, or where there is none.
        more_than: largest number that is too small; None where `minimum` says it, or where there is none.
        maximum: largest number that is accepted; None where there is none.
        less_than: name of the setting that the number must be less than; None where there is none.
        greater_than: name of the setting that the number must be greater than; None where there is none.
        matches: says whether a text, or each of several texts, is accepted, by a true value; None where any text is.
        accepts: what is accepted, in words; derived from the range where it is left out.
        unset: what holds where the value is None, in words.
        metavar: what stands for a value in `--help`; the unit in capitals where it is left out.
        option: name of the option; `--` and the field's name where it is left out.
        variable: name of the environment variable; `ZOOFLEET_` and the field's name where it is left out.
        panel: heading under which `--help` and docs/settings.md show the setting; empty for the settings that most
            operators need, which come first.
        secret: whether the value may hold a password, so that no message shows it.
        parse: makes the value from its text, or from the list of their texts where the setting has several values;
            raises ValueError where it cannot. The type where it is left out.
        name: the field's name.
        kind: the field's type: int, float or str for one value, tuple or Mapping for several.
        default: the field's default.
    """

    help: str
    unit: str = ""
    minimum: float | None = None
    more_than: float | None = None
    maximum: float | None = None
    less_than: str | None = None
    greater_than: str | None = None
    matches: Callable[[str], object] | None = None
    accepts: str = ""
    unset: str = ""
    metavar: str = ""
    option: str = ""
    variable: str = ""
    panel: str = ""
    secret: bool = False
    parse: Callable[[Any], Any] | None = None
    name: str = ""
    kind: type = str
    default: Any = None

    @property
    def has_several(self) -> bool:
        """Whether the option may be repeated and the variable may list several values."""
        return not issubclass(self.kind, int | float | str)

    def bound_to(self, field: dataclasses.Field[Any], hint: Any) -> Setting:
        """Return the description with all that derives from the field and its type."""
        (plain,) = [each for each in get_args(hint) if each is not NoneType] if NoneType in get_args(hint) else [hint]
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        return dataclasses.replace(
            self,
            name=field.name,
            kind=get_origin(plain) or plain,
            default=default,
            accepts=self.accepts or f"{self._range()} {self.unit}".strip(),
            parse=self.parse or get_origin(plain) or plain,
            metavar=self.metavar or self.unit.upper(),
            option=self.option or f"--{field.name.replace('_', '-')}",
            variable=self.variable or f"ZOOFLEET_{field.name.upper()}",
        )

    def _range(self) -> str:
        if self.more_than is not None:
            return f"more than {self.more_than:g}"
        if self.maximum is not None:
            return f"{self.minimum:g} to {self.maximum:g}"
        return "any" if self.minimum is None else f"{self.minimum:g} or more"

    def default_text(self) -> str:
        """Return the default as it is written, with a larger unit where that helps, such as `33554432 (32 MiB)`."""
        if self.default is None or self.default == ():
            return self.unset
        if isinstance(self.default, Mapping):
            return " ".join(f"{key}={value}" for key, value in self.default.items())
        if isinstance(self.default, tuple):
            return " ".join(self.default)
        if isinstance(self.default, str):
            return self.default
        number = f"{self.default:.15g}"
        for size, unit in _LARGER_UNITS.get(self.unit, ()):
            if self.default >= size and self.default % size == 0:
                return f"{number} ({self.default // size:g} {unit})"
        return number

    def parsed(self, text: str | Sequence[str], shown: str) -> Any:
        """Make the value from what was written.

        Args:
            text: the text of the value, or a list of texts where the setting has several values.
            shown: the name of the option or variable that it was given by.

        Raises:
            InvalidArgumentError: it cannot be understood; names it and what is accepted.
        """
        try:
            return self.parse(text) if self.parse is not None else text
        except ValueError:
            written = repr(text) if isinstance(text, str) else repr(" ".join(text))
            number = {int: "a whole number, ", float: "a number, "}.get(self.kind, "")
            raise InvalidArgumentError(f"{shown} is {written}; accepted: {number}{self.accepts}") from None

    def check(self, value: Any, shown: str) -> None:
        """Check a value for itself, without the other settings.

        Args:
            value: the value; None is always accepted.
            shown: the name under which the message mentions it.

        Raises:
            InvalidArgumentError: the value is out of range; names it and what is accepted.
        """
        wrong: list[str] = []
        if isinstance(value, Mapping):
            wrong = [f"has {k}={v}" for k, v in value.items() if k not in self.default or not self._takes(v)]
        elif isinstance(value, tuple):
            among = f" among {list(value)}" if len(value) > 1 else ""
            wrong = [f"has {each!r}{among}" for each in value if not self._takes(each)]
        elif value is not None and not self._takes(value):
            wrong = ["holds a value (a secret, not shown) that is not valid" if self.secret else f"is {value!r}"]
        if wrong:
            raise InvalidArgumentError(f"{shown} {wrong[0]}; accepted: {self.accepts}")

    def _takes(self, value: Any) -> bool:
        if isinstance(value, str):
            return self.matches is None or bool(self.matches(value))
        # Written so that NaN, which no comparison holds for, is refused.
        return (
            (self.minimum is None or value >= self.minimum)
            and (self.more_than is None or value > self.more_than)
            and (self.maximum is None or value <= self.maximum)
        )


def setting(default: _T, text: str, /, **description: Any) -> _T:
    """Define a field of a `Settings` dataclass.

    Args:
        default: the default value.
        text: what the setting does, as one or more sentences.
        description: further attributes of `Setting`.
    """
    metadata = {_KEY: Setting(help=text, **description)}
    if isinstance(default, Mapping):  # dataclasses take no default that cannot be hashed
        made: _T = dataclasses.field(default_factory=lambda: default, metadata=metadata)
        return made
    return dataclasses.field(default=default, metadata=metadata)


def settings_of(config: type[Settings]) -> tuple[Setting, ...]:
    """Return the settings of a dataclass, in the order of its fields."""
    hints = get_type_hints(config)
    return tuple(field.metadata[_KEY].bound_to(field, hints[field.name]) for field in dataclasses.fields(config))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Base class of a frozen dataclass all of whose fields are made by `setting`.

    Raises:
        InvalidArgumentError: a value is out of range, or does not go with another one; names it and what is accepted.
    """

    def __post_init__(self) -> None:
        settings = settings_of(type(self))
        self._check(
            {each.name: getattr(self, each.name) for each in settings}, {each.name: each.name for each in settings}
        )

    @classmethod
    def describe(cls, name: str) -> Setting:
        """Return the description of the setting of that name."""
        return next(each for each in settings_of(cls) if each.name == name)

    @classmethod
    def of(cls, given: Mapping[str, Any], shown: Mapping[str, str]) -> Self:
        """Make settings that come from outside the program.

        Args:
            given: values by the field's name; the others keep their defaults.
            shown: by the field's name, the name under which messages mention each setting.

        Raises:
            InvalidArgumentError: a value is out of range, or does not go with another one.
        """
        cls._check({each.name: given.get(each.name, each.default) for each in settings_of(cls)}, shown)
        return cls(**given)

    @classmethod
    def _check(cls, values: Mapping[str, Any], shown: Mapping[str, str]) -> None:
        for each in settings_of(cls):
            each.check(values[each.name], shown[each.name])
        for each in settings_of(cls):
            value = values[each.name]
            for other, words in ((each.less_than, "less than"), (each.greater_than, "more than")):
                if other is None:
                    continue
                bound = values[other]
                if not (value < bound if words == "less than" else value > bound):
                    raise InvalidArgumentError(
                        f"{shown[each.name]} is {value:g} {each.unit}; accepted: {words} the {shown[other]} of "
                        f"{bound:g} {each.unit}"
                    )
