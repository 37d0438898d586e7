"""Keys: a file or a text becomes a table, in which a key is found by its hash; the command that makes them."""

import hashlib
import re

import pytest
from click.testing import CliRunner

from app import keys
from app.cli import main
from app.keyring import Keyring
from app.keys import Key, Keys, KeysError, of_file, of_text
from app.settings import Settings

SECRET = "unrolled_a-key-of-these-tests-0123456789abcdefghijk"
HASH = hashlib.sha256(SECRET.encode()).hexdigest()
OTHER = hashlib.sha256(b"another").hexdigest()
WHERE = "here"


def table(name="ci", **fields):
    lines = {"scopes": '["infer"]', "sha256": f'"{HASH}"'} | fields
    return f"[{name}]\n" + "".join(f"{field} = {text}\n" for field, text in lines.items() if text is not None)


def read(text):
    return of_file(text.encode(), WHERE)


# -- what is understood ------------------------------------------------------------------------------------------------


def test_a_file_has_a_table_for_each_key():
    text = table() + table("all-2", scopes='["infer", "models"]', sha256=f'"{OTHER}"', rate_limit='"5/second"')
    assert read(text) == [
        Key("ci", frozenset({"infer"}), bytes.fromhex(HASH)),
        Key("all-2", frozenset({"infer", "models"}), bytes.fromhex(OTHER), "5/second"),
    ]
    assert read(table(scopes="[]", rate_limit='"none"', concurrency_limit="0")) == [
        Key("ci", frozenset(), bytes.fromhex(HASH), "none", 0)
    ]
    assert read("") == []


def test_a_text_has_the_same_keys_in_short():
    found = of_text(f"ci:infer:{HASH}, all:infer+models:{OTHER}\n,read::{'0' * 64}", WHERE)
    assert found == [
        Key("ci", frozenset({"infer"}), bytes.fromhex(HASH)),
        Key("all", frozenset({"infer", "models"}), bytes.fromhex(OTHER)),
        Key("read", frozenset(), bytes(32)),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    {
        "no TOML": ("[ci", "here is not TOML"),
        "no UTF-8": (b"\xff", "here is not TOML in UTF-8"),
        "no tables": ("ci = 1", "entry 1 of here is not a table"),
        "a bad name": (table('"a b"'), "a name is a letter or digit"),
        "a key for a name": (table(SECRET), "entry 1 of here"),
        "no hash": (table(sha256=None), "`sha256` of the key 'ci' of here is not the hash of a key"),
        "a short hash": (table(sha256='"abc"'), "`sha256` of the key 'ci'"),
        "the key itself": (table(sha256=f'"{SECRET}"'), "`unrolled key NAME` prints it"),
        "no scopes": (table(scopes=None), "`scopes` of the key 'ci' of here are not a list of any of infer and models"),
        "an unknown scope": (table(scopes='["infer", "admin"]'), "`scopes` of the key 'ci'"),
        "a scope alone": (table(scopes='"infer"'), "`scopes` of the key 'ci'"),
        "an unknown field": (table(scope="[]"), "a field that no key has, `scope`: did you mean `scopes`?"),
        "a field like none": (table(xyz="1"), "`xyz`: there are scopes, sha256, rate_limit, concurrency_limit"),
        "a rate of nothing": (
            table(rate_limit='"0/second"'),
            "`rate_limit` of the key 'ci' of here: expected a number",
        ),
        "a rate that is a number": (table(rate_limit="5"), "or 'none'"),
        "a negative concurrency": (table(concurrency_limit="-1"), "`concurrency_limit` of the key 'ci'"),
        "a boolean concurrency": (table(concurrency_limit="true"), "`concurrency_limit` of the key 'ci'"),
    }.values(),
)
def test_a_file_that_makes_no_sense_is_refused_in_a_sentence_without_the_key(text, said):
    with pytest.raises(KeysError) as caught:
        of_file(text if isinstance(text, bytes) else text.encode(), WHERE)
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [SECRET, "ci", f"ci:infer:{HASH},", f"ci:infer:{HASH}:more", f"{SECRET}:infer:{HASH}"])
def test_a_text_that_is_none_is_refused_without_showing_it(text):
    with pytest.raises(KeysError, match=r"entry \d of here is not NAME:SCOPES:SHA256") as caught:
        of_text(text, WHERE)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("text", [f"ci:infer:{SECRET}", f"ci:root:{HASH}", f"ci:infer:{HASH[:-1]}"])
def test_the_parts_of_a_text_are_checked_as_those_of_a_file(text):
    with pytest.raises(KeysError, match="the key 'ci' of here") as caught:
        of_text(text, WHERE)
    assert SECRET not in str(caught.value)


def test_two_of_one_name_and_one_of_two_names_are_refused():
    (one,) = read(table())
    with pytest.raises(KeysError, match="two keys of the name 'ci'"):
        Keys([one, Key("ci", frozenset(), bytes(32))])
    with pytest.raises(KeysError, match="'ci' and 'other' are the same key"):
        Keys([one, Key("other", frozenset(), one.digest)])


# -- how one is found --------------------------------------------------------------------------------------------------


def test_a_key_is_found_by_its_hash_and_nothing_else_is():
    known = Keys(read(table()))
    assert known.find(SECRET.encode()).name == "ci"
    for other in (b"", SECRET[:-1].encode(), SECRET.encode() + b" ", SECRET.upper().encode(), HASH.encode()):
        assert known.find(other) is None
    assert Keys([]).find(SECRET.encode()) is None


def test_what_is_found_is_compared_in_constant_time(monkeypatch):
    compared = []
    monkeypatch.setattr(keys.hmac, "compare_digest", lambda one, other: compared.append((one, other)) or False)
    assert Keys(read(table())).find(SECRET.encode()) is None, "the comparison decides"
    assert compared == [(bytes.fromhex(HASH),) * 2]


def test_of_a_key_nothing_but_its_hash_is_kept():
    known = Keys(read(table()))
    assert SECRET not in repr(vars(known))


# -- the file, as it changes -------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "keys.toml"
    path.write_text(table())
    return path


def test_keys_of_the_file_and_of_the_environment_hold_together(file):
    ring = Keyring(Settings(keys_file=file, keys=f"more::{OTHER}"))
    assert ring.keys.find(SECRET.encode()).name == "ci"
    assert ring.keys.find(b"another").name == "more"
    with pytest.raises(KeysError, match="two keys of the name 'ci'"):
        Keyring(Settings(keys_file=file, keys=f"ci::{OTHER}"))


def test_a_file_that_changes_is_read_anew(file, caplog):
    caplog.set_level("INFO", "unrolled")
    ring = Keyring(Settings(keys_file=file))
    ring.look()
    assert caplog.messages == [], "the same file is not read again"
    file.write_text(table("new", sha256=f'"{OTHER}"'))
    ring.look()
    assert ring.keys.find(SECRET.encode()) is None
    assert ring.keys.find(b"another").name == "new"
    assert caplog.messages == ["the keys were read anew: new"]


def test_another_file_in_its_place_is_noticed(file, tmp_path):
    ring = Keyring(Settings(keys_file=file))
    other = tmp_path / "other"
    other.write_text(table("xx"))
    other.replace(file)
    ring.look()
    assert ring.keys.names == ["xx"]


@pytest.mark.parametrize("breaks", [lambda file: file.write_text(f"[{SECRET}"), lambda file: file.unlink()])
def test_a_file_that_breaks_leaves_the_keys_as_they_were_and_is_said_once(file, caplog, breaks):
    ring = Keyring(Settings(keys_file=file))
    breaks(file)
    ring.look()
    ring.look()
    assert ring.keys.find(SECRET.encode()).name == "ci"
    (said,) = caplog.messages
    assert "the keys stay as they were" in said
    assert str(file) in said
    assert SECRET not in said
    file.write_text(table("mended"))
    ring.look()
    assert ring.keys.names == ["mended"]


def test_an_emptied_file_leaves_no_key(file):
    ring = Keyring(Settings(keys_file=file))
    file.write_text("")
    ring.look()
    assert ring.keys.find(SECRET.encode()) is None


# -- the command -------------------------------------------------------------------------------------------------------


def made(*arguments):
    result = CliRunner().invoke(main, ["key", *arguments])
    assert result.exit_code == 0, result.output
    (secret,) = re.findall(r"unrolled_[\w-]{43}", result.stderr)
    assert secret not in result.stdout
    return secret, result.stdout


def test_the_command_prints_a_key_and_the_table_that_lets_it_in():
    secret, kept = made("ci", "--scopes", "infer, models")
    (key,) = read(kept)
    assert (key.name, key.scopes) == ("ci", {"infer", "models"})
    assert Keys([key]).find(secret.encode()) is key
    assert made("ci")[0] != secret, "every key is another one"


def test_the_command_prints_what_the_environment_takes():
    secret, kept = made("metrics", "--scopes", "", "--env")
    assert Keys(of_text(kept, WHERE)).find(secret.encode()).scopes == frozenset()


def test_what_it_prints_can_be_added_to_a_file_one_after_the_other():
    first, second = made("one"), made("two")
    assert [key.name for key in read(first[1] + second[1])] == ["one", "two"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["a b"], "is no name of a key"), (["ci", "--scopes", "infer+models"], "`scopes` of the key")],
)
def test_a_name_or_scope_that_is_none_makes_no_key(arguments, said):
    result = CliRunner().invoke(main, ["key", *arguments])
    assert result.exit_code == 2
    assert said in result.stderr
    assert keys.PREFIX not in result.output
