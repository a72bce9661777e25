"""The folder that the tests of the transformers class load."""

from __future__ import annotations

import pytest
from tiny_ling import write_folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ling")
    write_folder(folder)
    return folder
