"""Names that attack whoever reads them, through each way that names come out again."""

import csv
import io
import json
import pathlib
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import yaml
from markdown_it import MarkdownIt
from PIL import Image

from softbio_jax.data import sources
from softbio_jax.data.audit import findings, page
from softbio_jax.data.prepare import prepare
from softbio_jax.evaluation import evaluate, predictions_csv
from softbio_jax.evaluation.report import card, document, gallery, groups, render, runs, write
from softbio_jax.inference import annotate, hub
from softbio_jax.inference.bulk.table import PredictionTable
from softbio_jax.inference.predictor import Prediction
from softbio_jax.tasks import GENDER
from softbio_jax.train.metrics_log import MetricWriter
from tests.evaluation.fixtures import random_predictions
from tests.structure import ROOT
from tests.test_escaping import harmless

# Names of files and of folders; a slash is in none of them.
NAMES = [
    "red \x1b[31m",
    "csi \x9b31m bell \x07",
    "back\rerror: forged",
    "\u202egpj.exe",
    "a\nerror: forged",
    "=HYPERLINK(1)",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\ttab",
    "a|b `c` [d](javascript:x) <img src=x onerror=y> **e**",
    "# a: 'b' \"c\"",
    "$x_{$",
    "café 你",
]
COMMONMARK = MarkdownIt("commonmark").enable("table")


def tags(text):
    """Types of everything that Markdown makes of a text, at any depth."""
    tokens = COMMONMARK.parse(text)
    return {child.type for token in tokens for child in (token, *(token.children or ()))}


def test_the_door_of_every_command(tmp_path):
    """Messages, errors of the user and of the system, and tracebacks, on both streams."""
    (tmp_path / "script.py").write_text(
        textwrap.dedent(f"""
        import os, sys
        from absl import flags
        from softbio_jax import command
        from softbio_jax.errors import UserError
        HOW = flags.DEFINE_string('how', None, 'What.')
        def main(argv):
            name = {"".join(NAMES)!r} + chr(0xdce9) + chr(0xd800)
            print(name)
            print(name, file=sys.stderr)
            match HOW.value:
                case 'user': raise UserError('bad', where=name)
                case 'system': open('/nowhere/' + {NAMES[4]!r})
                case 'bug': raise RuntimeError(name)
        if __name__ == '__main__':
            command.run(main)
        """)
    )
    for how, code in (("fine", 0), ("user", 1), ("system", 1), ("bug", 1)):
        done = subprocess.run(
            [sys.executable, str(tmp_path / "script.py"), f"--how={how}"],
            cwd=ROOT,
            capture_output=True,
            timeout=300,
        )
        out, err = done.stdout.decode(), done.stderr.decode()
        assert done.returncode == code and harmless(out) and harmless(err) and "café" in out, how
        if how == "system":
            assert sum(line.startswith("error: ") for line in err.splitlines()) == 2  # one is of NAMES


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A prepared folder of images with these names, its report, and the folder's own name."""
    root = tmp_path_factory.mktemp("hostile")
    for number, name in enumerate(NAMES):
        for word in ("male", "female"):
            path = root / "raw" / "train" / word / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(number).integers(0, 255, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(noise).save(path)
        (root / "raw" / "train" / "male" / f"{name}.txt").write_text("no image")
    out = root / "set \x1b[31m <b>=$x"
    report = prepare.prepare("folder", source=str(root / "raw"), out=out, task="gender", max_rejected=1.0)
    return sources.open_prepared(out, "train"), report


def test_a_preparation(prepared):
    dataset, report = prepared
    part = report["splits"]["train"]
    broken = [name for name in NAMES if "\n" in name or "\r" in name]  # no table could hold them
    assert len(part["rejected_rows"]) == 2 * len(broken) and len(dataset) == 2 * len(NAMES) - 2 * len(broken)
    assert all(harmless(row["path"]) and "\n" not in row["path"] for row in part["rejected_rows"])
    assert len(part["files_left_out"]) == len(NAMES)
    assert all(harmless(line) and "\n" not in line for line in part["files_left_out"])


def test_the_page_of_an_audit(prepared):
    dataset, _ = prepared
    digests = findings.digests_of(dataset.directory, dataset.split)
    found = findings.audit([dataset], sets=[None], digests=[digests])
    text = page.as_html(found, [dataset])
    assert found["duplicates"] and harmless(text)
    assert "<img src=x" not in text and "&lt;img src=x" in text


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_the_table_of_predictions(form, tmp_path):
    names = [name for name in NAMES if "\n" not in name and "\r" not in name]
    found = Prediction(
        classes={"gender": "male"}, probabilities={"gender": {"male": 1.0, "female": 0.0}}, expected_age=None
    )

    def table():
        return PredictionTable(tmp_path / "t", stream=io.StringIO(), form=form, tasks=[GENDER], model="=m")

    first = table()
    for name in names:
        first.write(name, None, [found])
    first.close()
    assert all(table().done(name) for name in names)
    text = (tmp_path / "t").read_text(encoding="utf-8")
    if form == "jsonl":
        assert harmless(text) and [json.loads(line)["input"] for line in text.splitlines()] == names
    else:
        cells = [row[0] for row in csv.reader(io.StringIO(text))]
        assert not any(cell.startswith(("=", "+", "-", "@", "\t")) for cell in cells)


def test_predictions_of_an_evaluation_read_back_unchanged(tmp_path):
    item = random_predictions("set", tasks=("gender",), n=len(NAMES))
    item = runs.dataclasses.replace(
        item, ids=np.array(NAMES), audit={"race": np.array(NAMES), "=x": np.array(["-0.5"] * len(NAMES))}
    )
    path = predictions_csv.save(item, tmp_path / "set.csv")
    again = predictions_csv.load(path)
    assert again.ids.tolist() == NAMES and again.audit["race"].tolist() == NAMES
    assert again.audit["=x"].tolist() == ["-0.5"] * len(NAMES)
    with path.open(newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert "-0.5" in cells and not any(
        c.startswith(("=", "+", "@", "\t")) or c.startswith("-1") for c in cells
    )


@pytest.fixture(scope="module", params=[NAMES[0], NAMES[4], NAMES[10], NAMES[11], NAMES[12]])
def hostile(request, tmp_path_factory):
    """An evaluated run whose folder, test set, groups and settings have a hostile name."""
    name = request.param
    path = tmp_path_factory.mktemp("run") / name
    item = random_predictions(name, tasks=("gender",), n=40)
    item = runs.dataclasses.replace(item, audit={"race": np.array([name, "b"] * 20)})
    evaluate.write(path, [item], model={"variant": name, "method": name})
    (path / "config.json").write_text(json.dumps({"data": {"root": name, name: "``` " + name}}))
    data = {f"train/{name}/train": {"n": 1, "fingerprint": "0" * 20, "labels": {"gender": 1}}}
    info = {"command": f"train.py {name}\n```\n# x", "device": name, "data": data}
    (path / "run.json").write_text(json.dumps(info))
    return runs.load_all([path])[0]


def test_a_report(hostile):
    content = write.compose([hostile], groups.audits([hostile]))
    text = render.document(content, "md")
    assert harmless(text)
    assert tags(text) <= {
        *(
            "heading_open",
            "heading_close",
            "inline",
            "text",
            "softbreak",
            "paragraph_open",
            "paragraph_close",
        ),
        *("table_open", "table_close", "thead_open", "thead_close", "tbody_open", "tbody_close", "tr_open"),
        *("tr_close", "th_open", "th_close", "td_open", "td_close", "strong_open", "strong_close", "image"),
        *("bullet_list_open", "bullet_list_close", "list_item_open", "list_item_close", "html_inline"),
        *("html_block", "blockquote_open", "blockquote_close", "text_special"),
    }
    assert "<img" not in text and "onerror=y>" not in text
    headings = {s.title for s in content.sections} | {content.title}
    found = COMMONMARK.parse(text)
    tops = {
        found[i + 1].content
        for i, token in enumerate(found)
        if token.type == "heading_open" and token.tag < "h3"
    }
    assert tops == headings
    tables = [t for t in found if t.type == "table_open"]
    assert len(tables) == len(content.tables())
    for form in ("html", "tex"):
        written = render.document(content, form)
        assert harmless(written) and "<img src=x" not in written


def test_its_groups_as_a_table(hostile, tmp_path):
    write._write_groups(tmp_path / "g.csv", groups.audits([hostile]))
    with (tmp_path / "g.csv").open(newline="", encoding="utf-8") as file:
        assert not any(cell.startswith("=") for row in csv.reader(file) for cell in row)


def test_its_card(hostile):
    text = card.render(hostile, {})
    _, front, body = text.split("---\n", 2)
    fields = yaml.safe_load(front)
    assert harmless(text) and fields["license"] == "other"
    assert len(fields) == 8 and isinstance(fields["model-index"][0]["name"], str)
    found = COMMONMARK.parse(body)
    tops = [found[i + 1].content for i, token in enumerate(found) if token.type == "heading_open"]
    assert tops[1:] == [
        *(
            "Results",
            "Fairness",
            "Size and cost",
            "Training data and label masks",
            "Protocol",
            "Intended use",
        ),
        *("Limits", "Licences", "Command"),
    ]
    # Only <sub>, of the templates, is HTML.
    html = {
        child.content for token in found for child in token.children or () if child.type.startswith("html")
    }
    assert html <= {"<sub>", "</sub>"} and not any(token.type == "html_block" for token in found)
    assert not any(child.type == "link_open" for token in found for child in token.children or ())


def test_its_gallery_and_printed_table(hostile):
    (item,) = hostile.predictions.values()
    text = gallery.render(item, lambda _: b"\x89PNG")
    assert harmless(text) and "<img src=x" not in text
    printed = evaluate.text(hostile.summary)
    assert harmless(printed) and len(printed.splitlines()) == 4


def test_names_of_files_of_a_report_are_plain(hostile):
    assert document.file_stem(hostile.name).isascii() and "\n" not in document.file_stem(hostile.name)


@pytest.mark.parametrize("name", NAMES)
def test_the_card_of_a_shared_model(name, bundle_of_names):
    text = hub.card_of_bundle(bundle_of_names(name), repo_id="a/b")
    assert harmless(text) and "<img" not in text
    headings = [
        token for token in COMMONMARK.parse(text.split("---\n", 2)[2]) if token.type == "heading_open"
    ]
    assert len(headings) == 5


@pytest.fixture
def bundle_of_names():
    """A model without weights, by its name."""
    from softbio_jax.inference.bundle import Bundle
    from softbio_jax.models.config import vision_config
    from softbio_jax.models.multitask import MultitaskModel

    model = MultitaskModel(vision_config("tiny-test"), tasks=(GENDER,))
    return lambda name: Bundle(
        name=name, method=name, image_size=32, model=model, temperatures={}, variables={}
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_log_of_metrics_is_json_lines(name, tmp_path):
    writer = MetricWriter(tmp_path / name, resume_step=0, active=True)
    writer.write(1, {f"train/loss/{name}": 0.5})
    writer.close()
    text = (tmp_path / name / "metrics.jsonl").read_text()
    assert harmless(text) and [json.loads(line) for line in text.splitlines()] == [
        {"step": 1, f"train/loss/{name}": 0.5}
    ]


OF_OTHER_SYSTEMS = [
    *(
        "CON",
        "con.jpg",
        "nul .txt",
        "Lpt9.tar.gz",
        "COM¹",
        "AUX/a.jpg",
        "a:b.jpg",
        "C:\\a.jpg",
        "..\\..\\a.jpg",
    ),
    *("a. ", "a...", "...", "what?.jpg", "a*b", "<a>", "\udce9.jpg", "\ud800", "nul\x00.jpg"),
    *("x" * 300 + ".jpg", "你" * 100, "x" * 300 + "/" + "y" * 300),
]
OUTSIDE = ["//tmp/a.jpg", "///a.jpg", "../../a.jpg", "/..", "..", ".", "/", "", "a/../../../b.jpg"]
WINDOWS = re.compile(r'(?i)(con|prn|aux|nul|(com|lpt)[0-9¹²³]) *(\..*)?|.*[<>:"\\|?*].*|.*[. ]')


@pytest.mark.parametrize("name", [*OUTSIDE, *NAMES, *OF_OTHER_SYSTEMS])
def test_annotated_images_stay_in_their_folder_under_names_that_every_system_has(name, tmp_path):
    out = tmp_path / "out"
    for seconds in (None, "1.000"):
        path = annotate.save(np.zeros((8, 8, 3), np.uint8), out, name, seconds)
        assert out.resolve() in path.resolve().parents and path.is_file()
        for part in path.relative_to(out).parts:
            assert harmless(part) and "\n" not in part and "\t" not in part
            assert len(part.encode()) <= 255 and not WINDOWS.fullmatch(part)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_annotated_images_of_different_names_are_different_files(tmp_path):
    names = [*NAMES, *OF_OTHER_SYSTEMS, "a.jpg", "../a.jpg", "../../a.jpg", "b/../a.jpg", "b/a.jpg"]
    names += ["x" * 300 + "2.jpg", "a_b", "a?b", "a|b", "_CON", "a", "a.", "", "image"]
    paths = {annotate.save(np.zeros((8, 8, 3), np.uint8), tmp_path, name, None) for name in names}
    assert len(paths) == len(set(names))


CLASHES = {
    "a folder of the root, and one beside": ["/data/a.jpg", "data/a.jpg"],
    "case": ["Photos/IMG.JPG", "photos/img.jpg", "PHOTOS/Img.jpg"],
    "composition": ["\u00e9/b.png", "e\u0301/b.png"],
    "above and beside": ["../x/a.jpg", "x/a.jpg", "/x/a.jpg", "y/../x/a.jpg"],
    "ending": ["a.jpg", "a.png", "a", "a.jpg/b.png"],
    "the next folder": ["a.jpg/b.png", "a"],
}


@pytest.mark.parametrize("names", CLASHES.values(), ids=CLASHES)
def test_annotated_images_whose_names_clash_keep_a_file_each_in_every_run(names, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.chdir(tmp_path)

    def written(shown, places):
        path = annotate.save(np.full((8, 8, 3), 20 * names.index(shown), np.uint8), places, shown, None)
        return path, path.read_bytes()

    places = annotate.Places(out)
    first = {name: written(name, places) for name in names}
    assert len({str(path.relative_to(out)).casefold() for path, _ in first.values()}) == len(names)
    # Another process, in another order.
    assert {name: written(name, annotate.Places(out)) for name in reversed(names)} == first
    assert len([path for path in out.rglob("*") if path.is_file()]) == len(names)
    assert all(path.read_bytes() == content for path, content in first.values())


def test_an_annotated_image_replaces_neither_the_users_file_nor_one_of_another_folder(tmp_path, monkeypatch):
    out = tmp_path / "out"
    (out / "x").mkdir(parents=True)
    (out / "x/a.png.jpg").write_bytes(b"the user's")
    paths = set()
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        for _ in range(2):
            paths.add(annotate.save(np.zeros((8, 8, 3), np.uint8), out, "x/a.png", None))
    assert len(paths) == 2 and (out / "x/a.png.jpg").read_bytes() == b"the user's"


@pytest.mark.parametrize(
    "name", ["a.jpg", "./a.jpg", "faces//a b.jpg", "faces/./é 你.png", "/data/-1 (2).jpg"]
)
def test_annotated_images_of_ordinary_names_keep_them(name, tmp_path):
    path = annotate.save(np.zeros((8, 8, 3), np.uint8), tmp_path, name, None)
    assert path == tmp_path / f"{pathlib.PurePosixPath(name.lstrip('/'))}.jpg"
