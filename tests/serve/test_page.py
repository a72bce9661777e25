"""The page's files: a fixed table, open to everybody, with headers that keep foreign code out."""

from __future__ import annotations

import re

import pytest
from fake_llm import NAME, FakeLLM
from fastapi.testclient import TestClient

from ling.serve.app import create_app
from ling.serve.page import FILES, FOLDER


@pytest.fixture(scope="module")
def guarded():
    with TestClient(create_app(FakeLLM(), served_model_name=NAME, api_key="sk")) as client:
        yield client
    client.app.state.service.close()


@pytest.mark.parametrize("path", FILES)
def test_every_file_is_there_without_a_key(guarded, path):
    name, media_type = FILES[path]
    reply = guarded.get(path)
    assert (reply.status_code, reply.content) == (200, (FOLDER / name).read_bytes())
    assert reply.headers["content-type"] == media_type
    assert reply.headers["x-content-type-options"] == "nosniff"
    policy = dict(
        part.split(" ", 1) for part in reply.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert {policy["script-src"], policy["style-src"], policy["connect-src"]} == {"'self'"}


def test_the_folder_has_no_file_that_is_not_served():
    found = {str(p.relative_to(FOLDER)) for p in FOLDER.rglob("*") if p.is_file()}
    assert found == {name for name, _ in FILES.values()}


@pytest.mark.parametrize(
    "path",
    [
        "/page",
        "/page/index.html",
        "/page/nothing.js",
        "/page/../guard.py",
        "/page/%2e%2e/guard.py",
        "/page/..%2fguard.py",
        "/page/vendor/..%5c..%5cguard.py",
        "/page//etc/passwd",
        "/page/app.js%00.html",
        "/page/app.js/x",
    ],
)
def test_no_path_leads_out_of_the_table(path):
    with TestClient(create_app(FakeLLM(), served_model_name=NAME)) as client:
        reply = client.get(path)
        assert reply.status_code == 404
        assert reply.json()["error"]["code"] == "not_found"
    client.app.state.service.close()


def test_only_the_files_are_open(guarded):
    for path in ("/v1/models", "/v1/experts", "/page", "/page/nothing.js", "/page/../v1/models"):
        assert guarded.get(path).status_code == 401
    assert guarded.post("/", json={}).status_code == 401 or guarded.post("/").status_code == 405


def test_a_known_file_is_not_sent_again(guarded):
    first = guarded.get("/page/app.js")
    assert first.headers["cache-control"] == "no-cache"
    etag = first.headers["etag"]
    for known in (etag, f'"x", W/{etag}'):
        again = guarded.get("/page/app.js", headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
    assert guarded.get("/page/app.js", headers={"If-None-Match": '"x"'}).status_code == 200


def test_files_name_only_each_other():
    """Nothing is loaded from elsewhere, and nothing is parsed as markup or code."""
    for name, _ in FILES.values():
        if name.startswith("vendor/"):
            continue
        text = (FOLDER / name).read_text()
        for found in re.findall(r'(?:src|href)="([^"]+)"', text) + re.findall(
            r'from "([^"]+)"', text
        ):
            target = found.removeprefix("./").removeprefix("page/")
            assert target.startswith("#") or (FOLDER / target).is_file(), (name, found)
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|style=", text
        )
        assert not re.search(r"<script(?! (?:type=\"module\" )?src=)| on\w+=\"", text)


def test_files_are_short():
    for name, _ in FILES.values():
        if name.endswith(".js") and not name.startswith("vendor/"):
            assert len((FOLDER / name).read_text().splitlines()) <= 300, name
