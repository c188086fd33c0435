"""Command of typer whose last arguments are settings (`key=value`)."""

from __future__ import annotations

from typing import Any

import typer.core

from lookalike.errors import ConfigError

_BY_RECIPE = "by default chosen by the recipe"


class SettingsCommand(typer.core.TyperCommand):
    """`--lr 0.1` is no option, as settings are written `optim.lr=0.1`; the error names the form.

    The help ends with the settings that matter most.
    """

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the popular settings that have no flag."""
        from lookalike.config.config import CHOSEN_BY_RECIPE, FLAGS, keys, popular_keys

        rows = []
        for key in popular_keys():
            _, default, text = keys()[key]
            if key not in FLAGS.values():
                chosen = key in CHOSEN_BY_RECIPE
                name = key if chosen or default == "-" else f"{key}={default}"
                first = text.rstrip(".").split(". ")[0]
                rows.append((name, f"{first}; {_BY_RECIPE}." if chosen else f"{first}."))
        with formatter.section("Settings, key=value (all: lookalike train --settings)"):
            formatter.write_dl(rows)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line; a ConfigError names the setting that an option may mean."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            # Click's, or since typer 0.26 its copy, of the same name.
            if type(error).__name__ != "NoSuchOption":
                raise
            from lookalike.config.config import setting_meant

            option = str(getattr(error, "option_name", ""))
            key = setting_meant(option.lstrip("-").replace("-", "_"))
            if key is None or "." not in key:
                raise
            raise ConfigError(
                f"{option} is no option; settings are written without dashes: "
                f"{key}={_value(given, option)}"
            ) from None


def _value(args: list[str], option: str) -> Any:
    for place, text in enumerate(args):
        if text.startswith(f"{option}="):
            return text.partition("=")[2]
        if text == option and place + 1 < len(args) and not args[place + 1].startswith("--"):
            return args[place + 1]
    return "VALUE"
