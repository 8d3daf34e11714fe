"""docs/mistakes.md: the table for users, its lines those that the commands say.

python -m tests.mistakes.page  # makes every mistake and writes the lines anew
"""

import pathlib
import re
import sys
import tempfile

from tests.mistakes.running import ROOT, Mistake, Told, World

PAGE = ROOT / "docs" / "mistakes.md"
_SECTION = re.compile(r"### (.+)\n\n```\n(.*)\n```\n")


def line_of(told: Told, world: World) -> str:
    """Returns the line as the page has it: without the folders of this machine."""
    (line,) = told.lines
    for folder, name in ((world.tmp, ""), (world.data, "data")):
        line = line.replace(f"{folder}/", f"{name}/" if name else "")
        line = line.replace(str(folder), name or ".")
    return line


def write(made: dict[str, str], groups: dict[str, list[Mistake]]) -> None:
    """Writes the sections; what could not be made here keeps the line it had."""
    text = PAGE.read_text()
    before = dict(_SECTION.findall(text))
    for title, mistakes in groups.items():
        sections = "\n".join(
            f"### {m.name}\n\n```\n{made.get(m.name, before.get(m.name, ''))}\n```\n" for m in mistakes
        )
        found = re.search(rf"^## {title}\n(.*?)(?=^## )", text, re.S | re.M)
        assert found, title
        text = f"{text[: found.start(1)]}\n{sections}\n{text[found.end(1) :]}"
    PAGE.write_text(text)


def main() -> None:
    import jax
    import pytest

    jax.config.update("jax_num_cpu_devices", 8)
    from tests.mistakes import labels, pictures, settings, weights
    from tests.runs import tiny

    groups = {
        "Labels": list(labels.MISTAKES),
        "Pictures and folders": list(pictures.MISTAKES),
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
                world = World(
                    tmp=root / str(number),
                    data=root / "data",
                    config=tiny.config_on(root / "data"),
                    patch=patch,
                )
                try:
                    told = mistake.make(world, True)()
                except pytest.skip.Exception as reason:
                    print(f"{mistake.name}: {reason}", file=sys.stderr)
                    continue
                made[mistake.name] = line_of(told, world)
    write(made, groups)


if __name__ == "__main__":
    main()
