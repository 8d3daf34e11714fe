"""docs/mistakes.md lists the messages that the commands print.

python -m tests.mistakes.page            makes every mistake and prints the sections that changed
python -m tests.mistakes.page --write    also writes them to the page
"""

import argparse
import pathlib
import re
import sys
import tempfile

from tests.mistakes.running import ROOT, Mistake, Output, Sandbox

PAGE = ROOT / "docs" / "mistakes.md"
_SECTION = re.compile(r"### (.+)\n\n```\n(.*)\n```\n")


def line_of(output: Output, sandbox: Sandbox) -> str:
    """Returns the message as printed on the page: without the folders of this machine."""
    (line,) = output.lines
    for folder, name in ((sandbox.tmp, ""), (sandbox.data, "data")):
        line = line.replace(f"{folder}/", f"{name}/" if name else "")
        line = line.replace(str(folder), name or ".")
    return line


def filled(text: str, made: dict[str, str], groups: dict[str, list[Mistake]]) -> str:
    """Returns the page with new sections; mistakes that could not be made here keep their message."""
    before = dict(_SECTION.findall(text))
    for title, mistakes in groups.items():
        sections = "\n".join(
            f"### {m.name}\n\n```\n{made.get(m.name, before.get(m.name, ''))}\n```\n" for m in mistakes
        )
        found = re.search(rf"^## {title}\n(.*?)(?=^## )", text, re.S | re.M)
        assert found, title
        text = f"{text[: found.start(1)]}\n{sections}\n{text[found.end(1) :]}"
    return text


def main() -> int:
    import jax
    import pytest

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the page")
    write = parser.parse_args().write
    jax.config.update("jax_num_cpu_devices", 8)
    from tests.mistakes import images, labels, settings, weights
    from tests.runs import tiny

    groups = {
        "Labels": list(labels.MISTAKES),
        "Images and folders": list(images.MISTAKES),
        "Settings and runs": list(settings.MISTAKES),
        "Weights and predictions": list(weights.MISTAKES),
    }
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        tiny.prepare_sets(root / "data")
        for number, mistake in enumerate(m for group in groups.values() for m in group):
            with pytest.MonkeyPatch.context() as patch:
                (root / str(number)).mkdir()
                sandbox = Sandbox(
                    tmp=root / str(number),
                    data=root / "data",
                    config=tiny.config_on(root / "data"),
                    patch=patch,
                )
                try:
                    output = mistake.make(sandbox, True)()
                except pytest.skip.Exception as reason:
                    print(f"{mistake.name}: {reason}", file=sys.stderr)
                    continue
                made[mistake.name] = line_of(output, sandbox)
    before = PAGE.read_text()
    after = filled(before, made, groups)
    old = dict(_SECTION.findall(before))
    changed = {name: line for name, line in _SECTION.findall(after) if old.get(name) != line}
    for name, line in changed.items():
        print(f"{name}\n    {line}")
    if write:
        PAGE.write_text(after)
    return 0 if write or after == before else 1


if __name__ == "__main__":
    sys.exit(main())
