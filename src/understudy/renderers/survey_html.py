"""A survey as one HTML file: offline, no script."""

from __future__ import annotations

from understudy.renderers import _survey_words as words
from understudy.renderers._page import css, environment
from understudy.survey import Survey


def render(survey: Survey) -> str:
    """The page, the same bytes for the same survey; everything from a log or a manifest is escaped."""
    return environment().get_template("survey.html.j2").render(s=survey, css=css(), words=words)
