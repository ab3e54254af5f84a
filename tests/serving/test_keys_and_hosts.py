"""Who is let in: keys, and names that clients may call the server by."""

import hashlib

import pytest

from flyweight.errors import UsageError
from flyweight.serving.http.hosts import host_rule
from flyweight.serving.keys import KeyRing, read_keys
from flyweight.serving.options import ServeOptions


def test_keys_have_names_and_salts():
    digest = hashlib.sha256(b"third-secret").hexdigest()
    ring = KeyRing(["first-secret", "bob=second-secret", f"eve=sha256:{digest}"])
    assert ring.find("first-secret").name.startswith("key-")
    assert ring.find("second-secret").name == "bob"
    assert ring.find("third-secret").name == "eve"
    assert ring.find("wrong") is None
    assert ring.find("") is None
    salts = {ring.find(one).salt for one in ("first-secret", "second-secret", "third-secret")}
    assert len(salts) == 3
    assert KeyRing(["first-secret"]).find("first-secret").salt not in salts  # anew at every start


def test_a_key_that_ends_like_base64_is_a_key():
    assert KeyRing(["QUJDREVGR0g="]).find("QUJDREVGR0g=") is not None


def test_bad_keys_are_refused():
    with pytest.raises(UsageError, match="8 or more"):
        KeyRing(["short"])
    with pytest.raises(UsageError, match="two API keys have the name 'bob'"):
        KeyRing(["bob=first-secret", "bob=second-secret"])


def test_keys_from_a_file(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# ours\n\nbob=second-secret\n")
    ring = read_keys(ServeOptions(api_key_file=path, api_key=("first-secret",)))
    assert len(ring.names) == 2
    path.write_text("# nothing\n")
    with pytest.raises(UsageError, match="holds no key"):
        read_keys(ServeOptions(api_key_file=path))
    assert read_keys(ServeOptions()) is None


@pytest.mark.parametrize(
    ("header", "ours"),
    [
        ("localhost:8000", True),
        ("127.0.0.1", True),
        ("[::1]:8000", True),
        ("app.localhost", True),
        ("evil.example", False),
        ("evil.example:80", False),
        ("", False),
        ("localhost/x", False),
        ("localhost:80:80", False),
        ("127.0.0.1.evil.example", False),
    ],
)
def test_without_keys_only_names_of_this_machine_are_ours(header, ours):
    assert host_rule((), has_keys=False)(header) is ours


def test_listed_names_are_the_only_ones():
    rule = host_rule(("Api.Example",), has_keys=True)
    assert rule("api.example:443")
    assert not rule("localhost")
    assert host_rule((), has_keys=True)("anything.example")
    assert host_rule(("*",), has_keys=False)("anything.example")
