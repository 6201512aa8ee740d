"""Names lead to plug-ins, lazily, and a wrong one is met with the nearest right one."""

from __future__ import annotations

import shutil

import pytest

from understudy import registry
from understudy.defences.rounding import Round
from understudy.errors import MissingExtra, UnknownName, UsageError


@pytest.mark.parametrize("kind", registry.KINDS)
def test_names_are_sorted_and_point_to_objects(kind: str) -> None:
    names = registry.names(kind)
    assert names
    assert list(names) == sorted(names)
    assert all(path.startswith("understudy.") for path in names.values())


def test_an_unknown_kind_names_the_kinds() -> None:
    with pytest.raises(UnknownName, match="attacks, defences"):
        registry.names("attack")


def test_create_makes_a_configured_plug_in() -> None:
    assert registry.create("defences", "round", decimals=1) == Round(1)


def test_a_misspelt_name_meets_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'label-only'"):
        registry.load("defences", "label_only")


def test_a_wrong_option_names_the_right_ones() -> None:
    with pytest.raises(UsageError, match=r"options: decimals"):
        registry.create("defences", "round", decimal=1)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("nowhere", "not of the form"),
        (":nothing", "not of the form"),
        ("understudy_nowhere:thing", "no module named 'understudy_nowhere'"),
        ("understudy.types:Boxx", "did you mean 'Box'"),
    ],
)
def test_a_wrong_path_says_what_is_wrong(path: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        registry.load_object(path)


def test_a_missing_library_is_named(tmp_path, monkeypatch) -> None:
    (tmp_path / "needs_extra.py").write_text("import a_library_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtra, match="a_library_that_is_not_there"):
        registry.load_object("needs_extra:thing")


def test_a_library_missing_deep_inside_a_package_is_named(tmp_path, monkeypatch) -> None:
    """The missing module's name is a prefix of nothing the user wrote: it is not taken for the user's own module."""
    package = tmp_path / "needsmore"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text("import needs\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtra, match="'needs'"):
        registry.load_object("needsmore.inner:thing")


def test_dotted_attributes_are_followed() -> None:
    assert registry.load_object("understudy.types:Exposure.of").__name__ == "of"


def test_outsiders_are_seen_as_soon_as_they_are_there_and_a_built_in_wins(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    known = registry.names("defences")
    package = tmp_path / "outsider-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: outsider\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[understudy.defences]\nround = other:Round\nsquare = other:Square\n")
    assert registry.names("defences") == {**known, "square": "other:Square"}
    shutil.rmtree(package)
    assert registry.names("defences") == known
