"""docs/architecture.md: what it names exists, its image of the imports is the code's."""

import ast
import re
import xml.etree.ElementTree as ET

import pytest

from tests.docs.blocks import ROOT

PAGE = ROOT / "docs" / "architecture.md"
PICTURE = ROOT / "docs" / "images" / "import_graph.svg"
RENEW = "renew it: python scripts/dev/import_graph.py"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "dev"))


@pytest.fixture
def imports(importable):
    from structure import imports

    return imports


@pytest.fixture
def layout(importable):
    from structure import layout

    return layout


@pytest.fixture
def draw(importable):
    from structure import drawing

    return drawing.draw


def named():
    """(function, file) of every link whose text is a name of the code."""
    text = PAGE.read_text()
    return sorted(set(re.findall(r"\[`([\w.]+)`\]\(\.\./([\w/]+\.py)\)", text)))


def definitions(path):
    """The functions, classes and methods of a file; what it imports by name too."""
    found = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{n.name}" for n in node.body if isinstance(n, ast.FunctionDef)}
    return found


@pytest.mark.parametrize(("name", "path"), named())
def test_what_a_way_passes_exists(name, path):
    folder, file = path.removesuffix(".py").split("/")[-2:]
    module = folder if file == "__init__" else file
    assert name.removeprefix(f"{module}.") in definitions(path)


def test_the_ways_are_walked_function_by_function():
    ways = re.split(r"^\*\*An? ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    assert len(ways) == 3
    assert all(len(re.findall(r"\[`[\w.]+`\]\(", way)) >= 8 for way in ways)


def test_every_package_is_in_the_layout(imports):
    told = PAGE.read_text().partition("## Layout")[2].partition("![")[0].replace("\\", "")
    assert [name for name in imports.boxes() if not re.search(rf"\[{name}/?\]", told)] == []


def test_the_picture_has_the_codes_packages_and_arrows(imports):
    root = ET.parse(PICTURE).getroot()
    boxes = {g.get("id") for g in root.iter(f"{SVG}g")}
    arrows = {p.get("id") for p in root.iter(f"{SVG}path") if p.get("id")}
    assert boxes == set(imports.boxes()), RENEW
    assert arrows == {f"{a}-{b}" for a, b in imports.reduced(imports.imports())}, RENEW


def test_the_pictures_sizes_are_right_to_a_tenth(imports):
    now = imports.boxes()
    for box in ET.parse(PICTURE).getroot().iter(f"{SVG}g"):
        drawn, found = int(box.get("data-lines")), now[box.get("id")].lines
        assert abs(drawn - found) <= max(0.1 * found, 60), f"{box.get('id')}: {RENEW}"


def test_every_arrow_of_the_picture_points_down():
    root = ET.parse(PICTURE).getroot()
    top = {g.get("id"): float(g.find(f"{SVG}rect").get("y")) for g in root.iter(f"{SVG}g")}
    ids = [p.get("id") for p in root.iter(f"{SVG}path") if p.get("id")]
    assert ids
    for name, _, other in (arrow.partition("-") for arrow in ids):
        assert top[name] < top[other], f"{name} -> {other}"


def test_the_same_code_gives_the_same_picture(imports, draw):
    again = draw(imports.boxes(), imports.imports())
    assert again == draw(imports.boxes(), dict(reversed(imports.imports().items())))


class TestGraph:
    """Of a small graph, by hand."""

    GRAPH = {"a": {"b", "c", "d", "errors"}, "b": {"c"}, "c": {"errors"}}  # noqa: RUF012

    def test_what_follows_from_others_is_left_out(self, imports):
        assert imports.reduced(self.GRAPH) == [("a", "b"), ("a", "d"), ("b", "c")]

    def test_levels(self, imports, layout):
        found = layout.levels("abcd", imports.reduced(self.GRAPH))
        assert found == {"a": 2, "b": 1, "c": 0, "d": 1}

    def test_a_long_arrow_bends_around_the_rows_between(self, layout):
        level = {"a": 2, "b": 1, "c": 0}
        arrows = [("a", "b"), ("a", "c")]
        assert layout.chains(level, arrows) == [["a", "b"], ["a", "a-c@1", "c"]]
        centre = layout.places(level, arrows)
        assert abs(centre["a-c@1"] - centre["b"]) > 172 / 2

    def test_no_box_lies_upon_another_or_upon_an_arrow(self, imports, layout):
        arrows = imports.reduced(imports.imports())
        names = [name for name in imports.boxes() if name != imports.GROUND]
        level = layout.levels(names, arrows)
        centre = layout.places(level, arrows)
        for row in set(level.values()):
            boxes = [name for name in names if level[name] == row]
            stops = [name for name in centre if name in boxes or name.endswith(f"@{row}")]
            for box in boxes:
                for other in set(stops) - {box}:
                    room = 172 if other in boxes else 172 / 2
                    assert abs(centre[box] - centre[other]) > room, (box, other)


def test_no_way_through_the_code_returns_to_a_module(importable):
    from reading_path import walks

    found = walks(PAGE.read_text())
    assert len(found) == 3
    for way, stays in found.items():
        assert len(set(stays)) == len(stays) > 5, f"{way}: reorder it, or shorten the way: {stays}"
