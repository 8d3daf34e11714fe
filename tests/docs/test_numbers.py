"""docs/numbers.md agrees with the pages that it collects numbers from."""

import re

import pytest

from tests.docs.blocks import PAGES, ROOT

PAGE = ROOT / "docs" / "numbers.md"


def rows():
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 5 and cells[4].startswith("["):
            yield pytest.param(*cells, id=cells[0])


@pytest.mark.parametrize(("what", "numbers", "command", "when", "page"), list(rows()))
def test_a_number_is_on_its_page(what, numbers, command, when, page):
    target = re.fullmatch(r"\[[^\]]+\]\(([^)#]+)[^)]*\)", page)
    text = (PAGE.parent / target[1]).read_text()
    assert [number for number in numbers.split("; ") if number not in text] == []
    assert re.search(r"20\d\d", when)
    assert command


def test_every_page_with_dated_numbers_is_listed():
    dated = re.compile(r"20\d\d-\d\d-\d\d|(January|October|November|December) 20\d\d")
    elsewhere = {"numbers.md", "responsible_use.md"}
    linked = PAGE.read_text()
    missing = [
        page.name
        for page in PAGES
        if page.name not in elsewhere and dated.search(page.read_text()) and page.name not in linked
    ]
    assert missing == []
