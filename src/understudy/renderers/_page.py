"""What every page is made with: templates in which everything is escaped, and the one style sheet."""

from __future__ import annotations

from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def environment() -> Environment:
    """Templates of this folder; a name that is not given is an error."""
    return Environment(
        loader=PackageLoader("understudy.renderers", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def css() -> Markup:
    """The styles, to stand inside the page."""
    return Markup(resources.files("understudy.renderers").joinpath("templates", "report.css").read_text("utf-8"))
