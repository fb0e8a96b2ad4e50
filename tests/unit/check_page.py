#!/usr/bin/python3
"""The status page is well-formed, whatever is in it.

Usage: check_page.py TEST_STATUS_WRITE

Reads each page that the program prints as HTML and as XML: elements are closed in order, ids are
unique, what refers to one finds it, nothing would run in a browser that came with a name, nothing is
loaded from elsewhere, tables have heads, drawings have titles and only numbers that are numbers.
"""
import html.parser
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

PAGES = ["empty", "three", "hostile", "many"]
VOID = {"meta", "link", "input", "br", "img", "hr"}
SVG = {"svg", "path", "title", "desc"}


class Balance(html.parser.HTMLParser):
    """As a browser reads it: no element may be closed by another's end."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], set()

    def handle_starttag(self, tag, attributes):
        self.seen.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), (tag, attributes)
        assert not [n for n in names if n.startswith("on") or n == "style"], (tag, attributes)
        for name, value in attributes:
            if name in ("href", "src", "action"):
                assert value == "data:," or not re.match(r"[a-z]+:|//", value), value

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            assert tag in SVG, f"<{tag}/> stays open in HTML"
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (tag, self.open)
        self.open.pop()


def check(name, text):
    parser = Balance()
    parser.feed(text)
    parser.close()
    assert not parser.open, parser.open
    assert parser.seen <= {
        "html", "head", "meta", "title", "link", "script", "body", "header", "h1", "h2", "p", "div",
        "dl", "dt", "dd", "time", "noscript", "main", "section", "small", "ul", "li", "strong", "em",
        "span", "bdi", "form", "label", "input", "button", "a", "table", "thead", "tbody", "tr", "th",
        "td", "figure", "figcaption", "b", "svg", "path", "desc", "details", "summary", "code",
        "footer"}, parser.seen
    root = ET.fromstring(text.partition("\n")[2])   # behind the DOCTYPE
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    assert len(ids) == len(set(ids)), ids
    for e in root.iter():
        for reference in (e.get("aria-labelledby", "") + " " + e.get("for", "")).split():
            assert reference in ids, reference
    scripts = [e for e in root.iter("script")]
    assert len(scripts) == 1 and not scripts[0].text and scripts[0].get("src") == "status.js"
    for table in root.iter("table"):
        width = len(table.findall("thead/tr/th[@scope='col']"))
        assert width
        for row in table.findall("tbody/tr"):
            assert row[0].tag == "th" and row[0].get("scope") == "row"
            assert sum(int(cell.get("colspan", 1)) for cell in row) == width, ET.tostring(row)
    for svg in root.iter("svg"):
        assert svg.get("aria-hidden") or svg.find("title").text
        for path in svg.findall("path"):
            assert re.fullmatch(r"([Mhvl] ?-?\d+([ -]\d+)?)*", path.get("d")), path.get("d")
    print(f"{name}: {len(text.encode())} bytes, {len(ids)} ids: good")


def main():
    for name in PAGES:
        text = subprocess.run([sys.argv[1], name], check=True, capture_output=True).stdout
        check(name, text.decode())


if __name__ == "__main__":
    main()
