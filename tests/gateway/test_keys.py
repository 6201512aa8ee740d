"""Keys: shown once, kept as digests, ended at once; two processes agree; the command line."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from issuer import write_manifest

from understudy.cli import main
from understudy.errors import KeysError, Unauthenticated, UsageError
from understudy.gateway.identity import Identity
from understudy.gateway.keys import Keys, path_of

NOW = 1_700_000_000.0


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Keys]:
    with Keys(tmp_path / "guard" / "keys.sqlite") as made:
        yield made


def why(book: Keys, token: str, now: float) -> str:
    with pytest.raises(Unauthenticated) as caught:
        book.lookup(token.encode(), now)
    assert str(caught.value) == "invalid or missing credential"
    return caught.value.why


def test_a_key_is_found_by_its_secret_alone(book: Keys) -> None:
    token = book.add("standard", "acme", audit=True, note="first", now=NOW)
    assert re.fullmatch(r"us_[0-9a-f]{8}_[A-Za-z0-9_-]{43}", token)
    key, until = book.lookup(token.encode(), NOW)
    assert (key.id, key.principal, key.party, key.tier, key.audit, key.note) == (
        token[3:11], "acme-1", "acme", "standard", True, "first",
    )  # fmt: skip
    assert until == float("inf")
    assert why(book, token[:-1] + ("A" if token[-1] != "A" else "B"), NOW) == "unknown key"
    assert why(book, token + "x", NOW) == why(book, "us_", NOW) == why(book, token + "\n", NOW) == "malformed key"


def test_only_the_digest_is_on_disk_and_only_the_owner_reads_it(book: Keys, tmp_path: Path) -> None:
    token = book.add("standard", now=NOW)
    for path in book.path.parent.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path
        assert token[12:].encode() not in path.read_bytes()
    assert book.path.parent.stat().st_mode & 0o777 == 0o700
    assert token[12:] not in repr(book) + repr(book.list())


def test_a_file_that_others_may_read_is_closed_to_them(book: Keys) -> None:
    book.close()
    book.path.chmod(0o644)
    with Keys(book.path):
        pass
    assert book.path.stat().st_mode & 0o777 == 0o600


def test_names_are_given_and_remembered(book: Keys) -> None:
    by_id = [
        book.add("standard", now=NOW),
        book.add("standard", "acme", now=NOW),
        book.add("standard", "acme", now=NOW),
    ]
    book.add("standard", principal="bob", now=NOW)
    again = book.add("standard", principal="acme-2", now=NOW)
    names = [(k.principal, k.party) for k in (book.lookup(t.encode(), NOW).key for t in (*by_id, again))]
    assert names == [(by_id[0][3:11],) * 2, ("acme-1", "acme"), ("acme-2", "acme"), ("acme-2", "acme")]
    assert ("bob", "bob") in {(key.principal, key.party) for key in book.list()}


@pytest.mark.parametrize("other", [{"party": "rival"}, {"tier": "partner"}, {"audit": True}])
def test_a_principal_belongs_to_one_party_tier_and_purpose(book: Keys, other: dict[str, object]) -> None:
    token = book.add("standard", "acme", "acme-1", now=NOW)
    wanted = {"tier": "standard", "party": "acme", "principal": "acme-1", **other}
    with pytest.raises(UsageError, match=token[3:11]):
        book.add(**wanted, now=NOW)  # type: ignore[arg-type]
    assert len(book.list()) == 1
    book.revoke(token[3:11], now=NOW)
    book.add(**wanted, now=NOW)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", " x", "x ", "a\nb", "a\x1b[2J", "x" * 129, "\u202e"])
def test_names_that_would_mislead_a_reader_are_refused(book: Keys, name: str) -> None:
    with pytest.raises(UsageError):
        book.add("standard", principal=name)
    with pytest.raises(UsageError):
        book.add("standard", party=name)


def test_revoked_and_expired_keys_say_so_in_the_log_only(book: Keys) -> None:
    token, short = book.add("standard", now=NOW), book.add("standard", expires=NOW + 60, now=NOW)
    assert book.lookup(short.encode(), NOW + 59).until == NOW + 60
    assert why(book, short, NOW + 60) == "expired key"
    assert book.revoke(token[3:11], now=NOW).revoked == NOW
    assert book.revoke(token[3:11], now=NOW + 5).revoked == NOW
    assert why(book, token, NOW) == "revoked key"
    with pytest.raises(UsageError, match="expired already"):
        book.add("standard", expires=NOW, now=NOW)
    for ended, word in ((token, "revoked"), (short, "expired")):
        with pytest.raises(UsageError, match=word):
            book.rotate(ended[3:11], now=NOW + 60)


def test_rotation_overlaps_as_long_as_was_said_and_no_longer(book: Keys) -> None:
    first = book.add("standard", now=NOW)
    second = book.rotate(first[3:11], 100, now=NOW)
    assert first[:11] == second[:11]
    assert book.lookup(first.encode(), NOW + 99).until == NOW + 100
    assert book.lookup(second.encode(), NOW).until == float("inf")
    assert why(book, first, NOW + 100) == "rotated key"
    third = book.rotate(first[3:11], 10, now=NOW + 1)  # the first secret's overlap is cut short, never drawn out
    assert [why(book, t, NOW + 11) for t in (first, second)] == ["rotated key"] * 2
    assert book.get(first[3:11]).overlap == NOW + 11
    fourth = book.rotate(first[3:11], 1000, now=NOW + 2)
    assert [why(book, t, NOW + 11) for t in (first, second)] == ["rotated key"] * 2
    assert book.lookup(third.encode(), NOW + 11).until == NOW + 1002
    book.rotate(first[3:11], 0, now=NOW + 2)
    assert why(book, fourth, NOW + 2) == "rotated key"
    assert why(book, third, NOW + 2) == "rotated key"
    fresh = book.rotate(first[3:11], 1000, now=NOW + 50)
    assert why(book, first, NOW + 50) == "unknown key"  # ended secrets are forgotten at the next rotation
    book.revoke(first[3:11], now=NOW + 51)
    assert why(book, fresh, NOW + 51) == "revoked key"


def test_an_unknown_id_is_not_repeated_and_the_nearest_is_named(book: Keys) -> None:
    token = book.add("standard")
    with pytest.raises(UsageError, match=f"did you mean {token[3:11]}"):
        book.revoke(token[3:10])
    with pytest.raises(UsageError) as caught:
        book.rotate(token)  # somebody pastes the key itself
    assert token not in str(caught.value)


def test_what_is_not_a_key_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.sqlite"
    path.write_bytes(b"not a database, and quite long enough to be looked at " * 40)
    with pytest.raises(KeysError, match="cannot be used"):
        Keys(path)
    path.unlink()
    book = Keys(path)
    book._db.execute("PRAGMA user_version=99")
    book.close()
    with pytest.raises(KeysError, match="another version"):
        Keys(path)


def test_a_database_that_was_removed_or_replaced_answers_nothing(book: Keys, tmp_path: Path) -> None:
    token = book.add("standard")
    kept = book.path.rename(tmp_path / "kept.sqlite")
    Keys(tmp_path / "other.sqlite").close()
    for put in (None, tmp_path / "other.sqlite"):
        if put:
            put.rename(book.path)
        book._checked -= 2
        with pytest.raises(KeysError, match="replaced while in use"):
            book.changed()
        with pytest.raises(KeysError, match="replaced while in use"):
            book.lookup(token.encode(), time.time())
    kept.rename(book.path)
    book._checked -= 2
    assert not book.changed()
    assert book.lookup(token.encode(), time.time()).key.id == token[3:11]


def test_many_hands_make_keys_at_once(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from understudy.gateway.keys import Keys\n"
        "book = Keys(Path(sys.argv[1]))\nfor _ in range(10): book.add('standard', 'acme')"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "guard" / "keys.sqlite")]
    with ThreadPoolExecutor(4) as pool:
        for done in pool.map(lambda _: subprocess.run(command, capture_output=True, text=True, timeout=60), range(4)):
            assert done.returncode == 0, done.stderr
    with Keys(tmp_path / "guard" / "keys.sqlite") as book:
        made = book.list()
    assert sorted(k.principal for k in made) == sorted(f"acme-{i}" for i in range(1, 41))


def test_a_running_gateway_notices_a_revocation_by_another_process(tmp_path: Path) -> None:
    manifest, path = write_manifest(tmp_path)
    book = Keys(path_of(manifest, path))
    token = book.add("standard", "acme")
    book.close()
    who = Identity(manifest, tmp_path, Keys(path_of(manifest, path)))
    headers = [(b"x-api-key", token.encode())]
    assert who.resolve(headers, None).principal == "key:acme-1"
    revoking = subprocess.Popen([sys.executable, "-m", "understudy", "keys", "revoke", str(path), token[3:11]])
    deadline, ended = time.monotonic() + 30, None
    while time.monotonic() < deadline:
        if ended is None and revoking.poll() is not None:
            ended = time.monotonic()
        try:
            who.resolve(headers, None)
        except Unauthenticated as error:
            refused = error.why
            break
        time.sleep(0.01)
    else:
        pytest.fail("the revocation was never noticed")
    assert refused == "revoked key"
    assert revoking.wait(30) == 0
    assert ended is None or time.monotonic() - ended < 1.5
    who.close()


# The command line


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["keys", *map(str, args)])


def test_keys_are_made_listed_rotated_and_revoked_by_hand(tmp_path: Path) -> None:
    _, path = write_manifest(tmp_path)
    assert "no keys yet" in run("list", path, "--json").stderr
    assert not (tmp_path / "guard").exists()
    made = run("add", path, "--tier", "standard", "--party", "acme", "--expires", "2130-12-31", "--note", "pilot")
    assert made.exit_code == 0
    token = made.stdout.strip()
    assert token.startswith("us_")
    assert "not shown again" in made.stderr
    assert token not in made.stderr
    rotated = run("rotate", path, token[3:11], "--overlap", "90m")
    fresh = rotated.stdout.strip()
    assert "the key before works until" in rotated.stderr
    listed = run("list", path, "--json")
    (row,) = json.loads(listed.output)
    assert row["principal"] == "acme-1"
    assert row["expires"] == "2131-01-01T00:00:00+00:00"
    assert row["state"] == "live"
    assert run("revoke", path, token[3:11]).exit_code == 0
    table = run("list", path).output
    assert "revoked" in table
    assert "pilot" in table
    with closing(sqlite3.connect(tmp_path / "guard" / "risk-score" / "keys.sqlite")) as db:
        digests = [digest.hex() for (digest,) in db.execute("SELECT hash FROM secrets")]
    assert len(digests) == 2
    for hidden in (*digests, token[12:], fresh[12:]):
        assert hidden not in table + listed.output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("add", "--tier", "standrad"), "did you mean 'standard'"),
        (("add", "--tier", "standard", "--expires", "soon"), "--expires is a day"),
        (("add", "--tier", "standard", "--expires", "2020-01-01"), "expired already"),
        (("rotate", "00000000", "--overlap=-1h"), "--overlap is a number"),
        (("rotate", "00000000"), "no keys yet"),
        (("revoke", "00000000"), "no keys yet"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(tmp_path: Path, args: tuple[str, ...], message: str) -> None:
    _, path = write_manifest(tmp_path)
    done = run(args[0], path, *args[1:])
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stdout == ""
