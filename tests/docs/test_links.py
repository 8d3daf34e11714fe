"""Every relative link of every page points to a file of the repository, and to an existing heading."""

import re
import subprocess

import pytest

from tests.docs.blocks import PAGES, ROOT

_LINK = re.compile(r"\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s]+)\)")
_CODE = re.compile(r"^( *)```.*?^\1```|`[^`\n]*`", re.DOTALL | re.MULTILINE)


def links(page):
    """Yields the relative targets of a page's links, except those inside of code."""
    text = re.sub(r"(\[[^\]]*\])", lambda m: m[0].replace("`", ""), page.read_text())
    for target in _LINK.findall(_CODE.sub("", text)):
        if not re.match(r"[a-z]+:", target):
            yield target


def anchors(page):
    """Yields the anchors of a page's headings, as GitHub and mkdocs create them."""
    for heading in re.findall(r"^#+ (.+)$", _CODE.sub("", page.read_text()), re.MULTILINE):
        plain = re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower()
        yield re.sub(r"\s+", "-", plain)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_resolve(page):
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    known = set(files.splitlines())
    broken = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        resolved = (page.parent / path).resolve() if path else page
        relative = resolved.relative_to(ROOT).as_posix()
        there = relative in known or any(name.startswith(f"{relative}/") for name in known)
        if not there or (anchor and anchor not in anchors(resolved)):
            broken.append(target)
    assert broken == []


def test_every_page_is_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text()
    pages = [p.relative_to(ROOT / "docs").as_posix() for p in PAGES if ROOT / "docs" in p.parents]
    assert [page for page in pages if f" {page}\n" not in menu] == []
