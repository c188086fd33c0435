"""Pages and model cards from templates: one Jinja environment, one base page with its style."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

from lookalike.log import counted

_OWN = "lookalike.pages"


def render(template: str, *, package: str = _OWN, **values: Any) -> str:
    """Text of a template; values are escaped in those of HTML.

    Args:
        template: of the folder `templates` of `package`, or of this one.
        package: name of a package with templates of its own.
    """
    return _environment(package).get_template(template).render(values)


@cache
def _environment(package: str) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(name) for name in (package, _OWN)]),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals["file_text"] = lambda name: _file_text(environment, name)
    environment.filters |= {
        "sha256": lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode(),
        "counted": counted,
        "count": lambda value: f"{value:,}",
        "percent": lambda value: f"{100 * value:.1f} %",
        "cosine": lambda value: f"{round(value, 2) + 0.0:.2f}".replace("-", "−"),
        "points": points,
    }
    return environment


def _file_text(environment: jinja2.Environment, name: str) -> Markup:
    assert environment.loader is not None
    return Markup(environment.loader.get_source(environment, name)[0].strip())


def points(value: float) -> str:
    """A difference in percentage points, with a sign unless it is zero: `+1.2`, `−0.3`, `0.0`."""
    text = f"{100 * value:+.1f}".replace("-", "−")
    return "0.0" if text[1:] == "0.0" else text
