# The status page as a test reads it: by plain HTTP, without JavaScript, as well-formed XML.
import http.client
import re
import xml.etree.ElementTree as ET

from harness import DEADLINE


class Reply:
    def __init__(self, reply):
        self.status, self.headers = reply.status, reply.headers
        self.text = reply.read().decode()


def ask(port, path, method="GET", **headers):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        c.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        return Reply(c.getresponse())
    finally:
        c.close()


def text_of(element):
    return " ".join("".join(element.itertext()).split())


def number(text):
    """The first number of a cell, without the spaces between groups."""
    return int(re.match(r"[\d ]+", text)[0].replace(" ", ""))


class Page:
    """What the page says, as tables of rows and their cells by the heads of columns."""

    def __init__(self, port, path="/"):
        r = ask(port, path)
        assert r.status == 200, (r.status, r.text)
        self.html = r.text
        self.root = ET.fromstring(r.text.partition("\n")[2])
        self.title = text_of(self.root.find("head/title"))
        self.state = text_of(self.root.find("body/header/p[@class]"))
        self.facts = {text_of(d.find("dt")): text_of(d.find("dd"))
                      for d in self.root.findall("body/header/dl/div")}

    def section(self, name):
        return self.root.find(f".//section[@id='{name}']")

    def problems(self):
        """{what: severity}"""
        return {text_of(li.find("span/bdi")): li.get("class")
                for li in self.section("problems").iter("li")}

    def table(self, name):
        """{first cell: {head: cell}}, in its order."""
        table = self.section(name).find(".//table")
        if table is None:
            return {}
        heads = [text_of(th) for th in table.findall("thead/tr/th")]
        rows = [[text_of(cell) for cell in tr] for tr in table.findall("tbody/tr")]
        return {row[0]: dict(zip(heads[1:], row[1:])) for row in rows}
