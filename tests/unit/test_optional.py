import sys

import pytest

from transformers_lighttoken.optional import import_optional


def test_it_imports():
    assert import_optional("json", "this test") is sys.modules["json"]


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"^a baseline needs faiss, .*pip install 'transformers-lighttoken\[eval\]'"):
        import_optional("faiss", "a baseline")
