"""A survey as one HTML file: offline, no script."""

from __future__ import annotations

from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from understudy.renderers import _survey_words as words
from understudy.survey import Survey


def render(survey: Survey) -> str:
    """The page, the same bytes for the same survey; everything from a log or a manifest is escaped."""
    env = Environment(
        loader=PackageLoader("understudy.renderers", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    css = resources.files("understudy.renderers").joinpath("templates", "report.css").read_text(encoding="utf-8")
    return env.get_template("survey.html.j2").render(s=survey, css=Markup(css), words=words)
