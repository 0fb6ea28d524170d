"""What the page of `danlu serve` must not have in it, as far as its text tells; test_page.py opens it in a browser."""

import re
from pathlib import Path

import danlu

TEXT = (Path(danlu.__file__).parent / "serve" / "page.html").read_text(encoding="utf-8")


def test_the_page_asks_nobody_but_its_own_server():
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', TEXT)
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert re.findall(r"https?://[^'\" ]+", TEXT) == ["http://www.w3.org/2000/svg"]  # the name of a language


def test_text_never_becomes_html():
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(|new Function", TEXT)
    assert len(re.findall(r"<script", TEXT)) == 1
    assert not re.search(r"<[a-z][^>]* on[a-z]+=", TEXT)


def test_every_word_is_there_in_both_languages():
    table = TEXT.partition("const WORDS = {")[2].partition("\n};")[0]
    words = dict(re.findall(r'(\w+): \["((?:[^"\\]|\\.)+", "(?:[^"\\]|\\.)+)"\]', table))
    assert len(words) == len(re.findall(r"\w+: \[", table)) > 100
    used = (
        re.findall(r"\bt\(\"(\w+)\"", TEXT) + re.findall(r'data-t="(\w+)"', TEXT) + re.findall(r'words: "(\w+)"', TEXT)
    )
    assert set(used) <= set(words)
    for name, pair in words.items():
        chinese, english = pair.split('", "')
        assert set(re.findall(r"\{\w\}", chinese)) == set(re.findall(r"\{\w\}", english)), name
