from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from ling.config.engine import ServeConfig
from ling.errors import UsageError
from ling.serve.keys import Keys, key_of, read_keys


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Makes a file of keys."""
    monkeypatch.delenv("LING_API_KEY", raising=False)

    def make(data: bytes) -> str:
        path = tmp_path / "keys"
        path.write_bytes(data)
        return str(path)

    return make


def test_keys_come_from_the_call_and_the_file_or_else_the_environment(file, monkeypatch):
    path = file(b"# of the team\nfirst\n\n  second  \r\n")
    monkeypatch.setenv("LING_API_KEY", "third")
    keys = read_keys(ServeConfig(api_key_file=path, api_key="zero"))
    assert [keys.tag(k) is not None for k in (b"zero", b"first", b"second", b"third", b"")] == [
        *(True, True, True),
        *(False, False),
    ]
    assert read_keys(ServeConfig()).tag(b"third") == ""
    assert read_keys(ServeConfig(api_key_file=file(b"\xef\xbb\xbffirst\r\n"))).tag(b"first") == ""
    monkeypatch.setenv("LING_API_KEY", "")
    assert not read_keys(ServeConfig())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "has no key"),
        (b"# only\n\n", "has no key"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"a\x00b", "control characters"),
        (b"x" * 70_000, "larger than"),
    ],
)
def test_unusable_files_are_refused_with_a_line_that_has_no_key(file, data, message):
    with pytest.raises(UsageError, match=message):
        read_keys(ServeConfig(api_key_file=file(data)))


def test_a_file_that_is_none_is_refused(tmp_path):
    for path, message in ((tmp_path, "regular file"), (tmp_path / "no", "No such file")):
        with pytest.raises(UsageError, match=message):
            read_keys(ServeConfig(api_key_file=str(path)))


def test_several_keys_have_cached_prefixes_of_their_own_also_after_a_restart():
    keys, later = Keys(["a", "b"]), Keys(["b", "c", "a"])
    assert keys.tag(b"a") == later.tag(b"a") != keys.tag(b"b")
    assert keys.tag(b"c") is None
    assert "a" * 3 not in keys.tag(b"a")
    assert Keys(["a"]).tag(b"a") == ""


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"Authorization": "Bearer k"}, b"k"),
        ({"authorization": "bearer  k "}, b"k"),
        ({"X-API-Key": "k"}, b"k"),
        ({"Authorization": "Bearer k", "x-api-key": "other"}, b"k"),
        ({"Authorization": "Basic k", "x-api-key": "other"}, b"other"),
        ({"Authorization": "k"}, b""),
        ({}, b""),
    ],
)
def test_a_request_shows_its_key_in_either_header(headers, key):
    assert key_of(Headers(headers)) == key
