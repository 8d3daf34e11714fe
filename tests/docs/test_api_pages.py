"""docs/api: the pages are those that scripts/dev/api_pages.py writes, and the menu has them."""

import pytest
import yaml

from scripts.dev import api_pages
from tests.docs.blocks import ROOT
from tests.structure import PACKAGE

FOLDER = ROOT / "docs" / "api"


@pytest.mark.parametrize("name", api_pages.PAGES)
def test_a_page_is_up_to_date(name):
    assert (FOLDER / f"{name}.md").read_text() == api_pages.page(name), "run python scripts/dev/api_pages.py"


def test_every_package_but_the_thesis_is_on_a_page():
    on_pages = {part for _, parts in api_pages.PAGES.values() for part in parts}
    packages = {
        path.parent.relative_to(PACKAGE).as_posix().replace("/", ".") for path in PACKAGE.rglob("*.pyi")
    }
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "moved"}  # no new names
    expected = {part for part in packages if not part.startswith("thesis")} | modules
    assert on_pages == expected


def test_the_menu_has_every_page_and_no_other():
    menu = next(
        part["API"]
        for part in yaml.load((ROOT / "mkdocs.yml").read_text(), yaml.BaseLoader)["nav"]
        if "API" in part
    )
    listed = [path for entry in menu for path in entry.values()]
    assert sorted(listed) == sorted(f"api/{name}.md" for name in api_pages.PAGES)
    assert sorted(path.name for path in FOLDER.glob("*.md")) == sorted(f"{n}.md" for n in api_pages.PAGES)
