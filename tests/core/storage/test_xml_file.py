"""XML that is hostile is refused before it costs anything."""

import os

import pytest

from core.storage import xml_file

BOMB = """<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "{}"><!ENTITY c "{}">]><a>&c;</a>"""


def test_elements_attributes_and_text_are_read():
    root = xml_file.parse(b"<a k='1'><b>one &amp; two</b><b/></a>")
    assert root.attrib == {"k": "1"}
    assert [one.text for one in root.iter("b")] == ["one & two", None]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (BOMB.format("x" * 1000, "&b;" * 1000), "document type declaration"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "document type declaration"),
        ("<a>" * 5000 + "</a>" * 5000, "deeper than 100"),
        ("<a>&b;</a>", "undefined entity"),
        ("<a><b></a>", "mismatched"),
        ("", "no element"),
        ('<?xml version="1.0" encoding="none"?><a/>', "encoding"),
        ("no tags", "syntax error"),
    ],
)
def test_what_is_not_plain_xml_is_refused(text, why):
    with pytest.raises(xml_file.NotXml, match=why):
        xml_file.parse(text.encode())


def test_files_are_bounded_and_pipes_are_not_waited_for(tmp_path):
    (tmp_path / "a.xml").write_text("<a>" + "x" * 100 + "</a>")
    with pytest.raises(xml_file.NotXml, match="more than 50 bytes"):
        xml_file.read(tmp_path / "a.xml", largest=50)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(xml_file.NotXml, match="not a regular file"):
        xml_file.read(tmp_path / "pipe")
