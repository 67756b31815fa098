from __future__ import annotations

import html.parser
import json
import re

from dials_diffuse.report.html import ReportSection, plots_of, write_report


class _Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.ids, self.cells, self.sources = [], [], []
        self._in_cell = False

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.ids.append(attributes.get("id"))
        if tag in ("script", "link", "img"):
            self.sources.append(attributes.get("src") or attributes.get("href"))
        self._in_cell = tag in ("td", "th")

    def handle_data(self, data):
        if self._in_cell and data.strip():
            self.cells.append(data.strip())
            self._in_cell = False


def test_page_holds_everything_and_opens_without_a_network(tmp_path):
    plot = {
        "data": [{"x": [1, 2], "y": [3.5, 4.5], "name": "</script><b>"}],
        "layout": {"title": {"text": "b"}},
        "help": "scale of each still",
    }
    section = ReportSection(
        "Scales & <more>",
        tables=[[["still", "b"], [0, 1.25]]],
        plots={"scales": plot},
        images={"a picture": b"\x89PNG"},
    )
    write_report(tmp_path / "r.html", "dials.diffuse_test", [section])
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    page = _Page()
    page.feed(text[text.index("<body>") :])
    assert "scales" in page.ids
    assert page.cells == ["still", "b", "0", "1.25"]
    assert all(source is None or source.startswith("data:") for source in page.sources)
    assert "Scales &amp; &lt;more&gt;" in text
    # The plot arrives as it was, and can't end its script early
    body = re.search(r"var plot = (\{.*?\});\n", text).group(1)
    assert "</script>" not in body
    assert json.loads(body) == plot
    assert plots_of([section]) == {"scales": plot}
