"""Texts as inputs: what may be asked, how it is kept, how a manifest names it and its data."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import understudy as us
from understudy import dataset, fitting, manifest, texts
from understudy.endpoint import open_endpoint
from understudy.errors import InputError, ManifestError, RecordError
from understudy.history.inputs import taker
from understudy.store import frame, pack, unframe, unpack
from understudy.targets.callable import CallableTarget
from understudy.types import Exposure, Text, digest

SAID = ["Win money now!", "see you at seven", "größer als gedacht 😀", "two\nlines", '"quoted", with a comma']
written = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40)


def shouts(asked: list[str]) -> Any:
    """The share of capitals, as two classes."""
    loud = np.array([sum(c.isupper() for c in text) / len(text) for text in asked])
    return np.column_stack([1 - loud, loud])


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (["fine", "x" * 21], "row 1 is longer than 20 characters; 1 row"),
        (["", "fine", ""], "row 0 is empty; 2 row"),
        (["nul\0"], "row 0 holds a NUL"),
        (["half \ud83d"], "row 0 cannot be written as UTF-8"),
        ([3.0], "row 0 is not a text"),
        (np.zeros(2), "row 0 is not a text"),
        ([b"bytes"], "row 0 is not a text"),
        ([["nested"]], "row 0 is not a text"),
        (np.array([["a"]]), "row 0 is not a text"),
        ("one", "not a list"),
        (np.array("one"), "not a list"),
        (None, "not a list"),
    ],
)
def test_what_is_no_text_is_refused_and_not_repeated(asked: Any, why: str) -> None:
    with pytest.raises(InputError, match=why) as caught:
        Text(20).check(asked)
    assert "nested" not in str(caught.value)


def test_texts_are_an_array_of_str() -> None:
    for given_ in (SAID, tuple(SAID), np.array(SAID), texts.array(SAID)):
        x = Text().check(given_)
        assert (x.dtype, x.shape, x.tolist()) == (object, (5,), SAID)
    assert Text(empty=True).check([""]).tolist() == [""]
    assert Text().check([]).shape == (0,)
    drawn = Text(3).sample(50, np.random.default_rng(0))
    assert Text(3).check(drawn) is drawn
    with pytest.raises(InputError, match="room for a character"):
        Text(0)


@given(st.lists(st.one_of(written, st.just("")), max_size=5))
def test_texts_are_kept_as_they_are(asked: list[str]) -> None:
    x = texts.array(asked)
    arrays, head = unframe(frame({"n": np.arange(3), "x": x, "m": np.ones(2)}, outputs=2))
    assert arrays["x"].tolist() == asked
    assert arrays["m"].tolist() == [1, 1]
    assert head["outputs"] == 2
    assert unpack(pack({"x": x}))[0]["x"].tolist() == asked


@given(st.lists(written, min_size=1, max_size=4), st.data())
def test_a_digest_tells_texts_apart(asked: list[str], data: st.DataObject) -> None:
    other = data.draw(st.lists(written, min_size=1, max_size=4))
    assert (digest(texts.array(asked)) == digest(texts.array(list(other)))) == (asked == other)


def test_damaged_texts_are_no_record() -> None:
    blob = frame({"x": texts.array(SAID)})
    for bad in (blob[:-1], blob + b"!", blob.replace(b"\xc3\xb6", b"\xff\xfe")):
        with pytest.raises(RecordError):
            unframe(bad)
    with pytest.raises(RecordError, match="only numbers and texts"):
        frame({"x": np.array([{}], object)})
    with pytest.raises(RecordError, match="only numbers and texts"):
        frame({"x": texts.array(["\ud800"])})


def test_a_function_of_texts_is_a_target() -> None:
    target = us.target(shouts, "probabilities", 2, us.Text(100))
    assert isinstance(target, CallableTarget)
    assert target.query(SAID).labels().tolist() == [0] * 5
    assert len(target.query([])) == 0
    with pytest.raises(InputError, match="row 1 is longer"):
        target.query(["LOUD", "x" * 101])
    assert us.fidelity(target, target, SAID).value == 1


def test_a_sketch_shows_which_texts_share_words() -> None:
    one = "the parcel could not be delivered to your address please pay the fee"
    kept = taker("sketch", b"k" * 32)(
        texts.array([one, one + " today", "Lunch at noon? Bring the slides", "", one.upper()])
    )
    signs, norms = kept["signs"], kept["norms"]
    apart = [bin(int(signs[0]) ^ int(s)).count("1") for s in signs]
    assert apart[0] == apart[4] == 0
    assert apart[1] <= 16 < 20 <= apart[2]
    assert norms.tolist() == [13, 14, 6, 0, 13]
    assert (taker("sketch", b"j" * 32)(texts.array([one]))["signs"] != signs[:1]).all()


def test_a_hash_shows_only_the_same_text() -> None:
    kept = taker("hash", b"k" * 32)(texts.array(["a", "b", "a", "a "]))["hashes"]
    assert [bytes(h) == bytes(kept[0]) for h in kept] == [True, False, True, False]


# manifests

WORDS = """\
apiVersion: understudy/v1
kind: Endpoint
metadata: {id: spam, owner: o, contact: c@example.org}
model: {version: "1"}
target:
  python: speaker:shouts
  signals: {probabilities: {}}
  outputs: 2
space:
  text: {longest: 60}
evaluation: {data: said.txt}
goals: [{id: copy, threshold: 0.9, basis: test}]
tiers: [{id: public, who: anybody, limits: {per_day: 100}, signals: {label: {}}}]
"""


def endpoint(folder: Path, text: str = WORDS) -> Path:
    (folder / "speaker.py").write_text("from test_texts import shouts\n", encoding="utf-8")
    (folder / "said.txt").write_text("one text\r\n\nanother text, größer\n", encoding="utf-8")
    path = folder / "endpoint.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_manifest_of_texts_opens(tmp_path: Path) -> None:
    opened = open_endpoint(endpoint(tmp_path))
    assert opened.evaluation.tolist() == ["one text", "another text, größer"]
    assert opened.target.space == Text(60)
    assert opened.pool.inputs.shape == (0,)
    assert opened.tier(opened.manifest.tiers[0], "p").query(["LOUD"]).labels().tolist() == [1]


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("longest: 60", "longst: 60", r"yaml:10: space.text.longst: unknown field \(allowed: longest, empty\)"),
        ("longest: 60", "longest: 0", "endpoint.yaml:10: space.text.longest: .*greater than 0"),
        ("{probabilities: {}}", "{probabilities: {}, attribution: {}}", "yaml:7: target.signals.attribution: it is"),
        ("goals:", "monitor: {logs: {encode: 'a:b'}}\ngoals:", "monitor.logs.encode: it makes numbers"),
        ("goals:", "monitor: {logs: {inputs: [a, b]}}\ngoals:", "monitor.logs.inputs: a text is at one place"),
        ("  text: {longest: 60}", "  low: 0\n  high: 1\n  shape: [2]\n  wide: 1", "space.wide: unknown .*: low, high"),
        ("  text: {longest: 60}", "  low: 0", "space.high: is required and missing"),
    ],
)  # fmt: skip
def test_a_mistake_in_it_is_named(tmp_path: Path, old: str, new: str, wanted: str) -> None:
    with pytest.raises(ManifestError, match=wanted):
        manifest.load(endpoint(tmp_path, WORDS.replace(old, new)))


def write_tables(folder: Path) -> None:
    rows = [{"id": i, "said": text, "class": ("ham", "spam")[i % 2]} for i, text in enumerate(SAID)]
    with (folder / "t.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), folder / "t.parquet")
    np.savez(folder / "t.npz", inputs=np.array(SAID), truth=np.arange(5) % 2)


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet", "t.npz"])
def test_texts_are_read_from_tables(tmp_path: Path, name: str) -> None:
    write_tables(tmp_path)
    part = manifest.Data(data=name, column="said", truth_column="class")
    x, truth = dataset.load(part, tmp_path, Text(), "evaluation", ("ham", "spam"))
    assert x.tolist() == SAID
    assert truth is not None
    assert truth.tolist() == [0, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("name", "options", "wanted"),
    [
        ("t.csv", {}, r"evaluation.column: name the column .*\(columns: id, said, class\)"),
        ("t.jsonl", {"column": "text"}, "has no column 'text'"),
        ("t.parquet", {"column": "said", "truth_column": "id"}, ""),
        ("t.csv", {"column": "said", "truth_column": "class"}, "a truth is not a number .name classes"),
        ("t.csv", {"column": "id"}, ""),
        ("t.parquet", {"column": "id"}, "row 0 is not a text"),
        ("t.npy", {}, "cannot be read"),
        ("t.bin", {}, r"expected .npy, .npz, .txt, .csv"),
        ("bad.txt", {}, "cannot be read"),
        ("bad.jsonl", {"column": "a"}, "cannot be read: record 2 has no 'a'"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path: Path, name: str, options: dict[str, str], wanted: str) -> None:
    write_tables(tmp_path)
    (tmp_path / "bad.txt").write_bytes(b"fine\n\xff\xfe\n")
    (tmp_path / "bad.jsonl").write_text('{"a": "x"}\n{"b": "y"}\n', encoding="utf-8")
    part = manifest.Data(data=name, **options)
    if not wanted:
        assert len(dataset.load(part, tmp_path, Text(), "evaluation")[0]) == 5
        return
    with pytest.raises(ManifestError, match=wanted):
        dataset.load(part, tmp_path, Text(), "evaluation")


def test_what_a_callable_gives_is_held_against_its_exposure(tmp_path: Path) -> None:
    bad = CallableTarget(lambda asked: shouts(asked)[:1], Exposure.of("probabilities", 2), Text())
    with pytest.raises(us.UnderstudyError, match="2 inputs were asked and 1 answers"):
        bad.query(["a", "b"])


def test_noise_is_refused_for_texts(tmp_path: Path) -> None:
    """Before anybody is served: fitting comes first."""
    tier = "signals: {probabilities: {}}, defences: [{name: noise, scale: 0.1, key_env: UNDERSTUDY_NOISE_KEY}]}]"
    path = endpoint(tmp_path, WORDS.replace("signals: {label: {}}}]", tier))
    with pytest.raises(us.UnderstudyError, match=r"noise moves answers .* these inputs are texts"):
        fitting.kept(path, tmp_path / "guard")


def test_the_owner_is_asked_so_many_rows_at_a_time(tmp_path: Path) -> None:
    sizes: list[int] = []

    def counted(asked: list[str]) -> Any:
        sizes.append(len(asked))
        return shouts(asked)

    opened = open_endpoint(endpoint(tmp_path, WORDS.replace("outputs: 2", "outputs: 2\n  batch: 2")))
    opened = replace(opened, owner=us.target(counted, "probabilities", 2, Text()))
    assert len(opened.owned(texts.array(SAID))) == 5
    assert sizes == [2, 2, 1]
