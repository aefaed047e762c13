"""The options of `zoofleet scheduler` and `zoofleet worker`, derived from the settings' dataclasses."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

import typer
from rich.markup import escape

from zoofleet._serving.settings import Setting, Settings, settings_of

_C = TypeVar("_C", bound=Settings)
_F = TypeVar("_F", bound=Callable[..., None])


def takes(config: type[Settings]) -> Callable[[_F], _F]:
    """Make a decorator that gives a command an option for each setting, in the place of its `**options`."""

    def decorate(command: _F) -> _F:
        signature = inspect.signature(command, eval_str=True)
        own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        derived = [_parameter(each) for each in settings_of(config)]
        # typer reads the signature.
        command.__signature__ = signature.replace(parameters=[*derived, *own])  # type: ignore[attr-defined]
        return command

    return decorate


def _parameter(setting: Setting) -> inspect.Parameter:
    """Make the parameter of a command from which typer makes the option; its value is None where none is given."""
    default = escape(setting.default_text())
    option = typer.Option(
        setting.option,
        envvar=setting.variable,
        help=f"{escape(setting.help)} [dim]\\[default: {default}][/]",
        metavar=setting.metavar,
        show_default=False,  # it is None; the help says what holds then
        rich_help_panel=setting.panel or None,
    )
    kind: Any = list[str] if setting.has_several else str  # `settings_from` makes the value, and names it in errors
    return inspect.Parameter(
        setting.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def written_as(context: typer.Context, setting: Setting) -> str:
    """Return the name by which the user gave a setting: the environment variable's, or else the option's."""
    source = context.get_parameter_source(setting.name)
    return setting.variable if source is not None and source.name == "ENVIRONMENT" else setting.option


def settings_from(config: type[_C], context: typer.Context, options: Mapping[str, Any]) -> _C:
    """Make settings from a command's options.

    Args:
        config: the settings' dataclass.
        context: the command's context, which knows where each value comes from.
        options: the options' texts by the field's name; None or an empty list for what was not given.

    Raises:
        InvalidArgumentError: a value is not accepted; names it as the user wrote it, and what is accepted.
    """
    settings = settings_of(config)
    shown = {each.name: written_as(context, each) for each in settings}
    given = {
        each.name: each.parsed(options[each.name], shown[each.name])
        for each in settings
        if options[each.name] not in (None, [])
    }
    return config.of(given, shown)
