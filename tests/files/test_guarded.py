from __future__ import annotations

import os

import pytest

from ling.files import guarded
from ling.files.guarded import inside, loads, open_regular, read_regular


def test_regular_file_is_read_up_to_a_bound(tmp_path):
    file = tmp_path / "x"
    file.write_bytes(b"12345")
    assert read_regular(file, 5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_regular(file, 4)
    with open_regular(file) as fd:
        assert os.pread(fd, 2, 1) == b"23"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(OSError, match="not a regular file"):
        read_regular(path, 10)


def test_links_stay_inside_the_folder(tmp_path):
    home = tmp_path / "model"
    home.mkdir()
    (home / "real").write_text("x")
    (home / "link").symlink_to("real")
    assert inside(home, "link") == home / "link"
    assert inside(home, "absent") == home / "absent"
    (tmp_path / "secret").write_text("x")
    (home / "out").symlink_to("../secret")
    with pytest.raises(OSError, match="leads out of the folder"):
        inside(home, "out")
    (home / "loop").symlink_to("loop")
    (home / "dangling").symlink_to("nothing")
    for name in ("loop", "dangling"):
        with pytest.raises(OSError, match=r"No such file|symbolic links"):
            inside(home, name)


def test_snapshots_of_the_hugging_face_cache_link_to_its_blobs_only(tmp_path):
    repository = tmp_path / "models--a--b"
    snapshot = repository / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    for place in (repository / "blobs", tmp_path / "blobs"):
        place.mkdir()
        (place / "1").write_text("x")
    (snapshot / "one").symlink_to("../../blobs/1")
    (snapshot / "two").symlink_to("../../../blobs/1")
    assert inside(snapshot, "one").read_text() == inside(snapshot, "two").read_text() == "x"
    (repository / "refs").write_text("x")
    (snapshot / "three").symlink_to("../../refs")
    with pytest.raises(OSError, match="leads out of the folder"):
        inside(snapshot, "three")


def test_json_is_read_as_the_library_reads_it():
    assert loads(b'{"a": [1, 2.5, null, "\xc3\xa9"], "b": {"a": 1}}') == {
        "a": [1, 2.5, None, "é"],
        "b": {"a": 1},
    }
    assert loads(b'\xef\xbb\xbf{"a":\r\n 1}') == {"a": 1}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"a": 1, "b": 2, "a": 3}', "`a` is there twice"),
        (b'{"x": {"\\u001b": 1, "\\u001b": 2}}', r"`\?` is there twice"),
        (b'"\xff"', "not UTF-8"),
        (b"{", "not JSON: .* at byte 1"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_json_that_readers_take_differently_is_refused(data, words):
    with pytest.raises(ValueError, match=words):
        loads(data)


def test_json_of_too_many_values_is_refused_before_it_is_read(monkeypatch):
    monkeypatch.setattr(guarded, "MAX_VALUES", 5)
    monkeypatch.setattr(guarded, "MAX_OBJECTS", 2)
    assert loads(b"[1,2,3,4,5]") == [1, 2, 3, 4, 5]
    for data in (b"[1,2,3,4,5,6]", b"[{},{},{}]"):
        with pytest.raises(ValueError, match="more than 2 objects or 5 values"):
            loads(data)
