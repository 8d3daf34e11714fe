"""scripts/report.py as a user meets it when something is wrong."""

import pytest


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere", "--out=out"], 1, "no such run"),
        (["lora", "--out=out", "--predictions=X:nothing.csv"], 1, "cannot read predictions"),
        (["lora", "--out=out", "--predictions=nothing.csv"], 1, "NAME:FILE.csv"),
        (["--out=out"], 2, "name at least one run"),
        (["lora", "--out=out", "--share_gallery"], 2, "needs --gallery"),
        (["lora", "--outt=out"], 2, "outt"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(arguments, code, words, command, run_folder):
    done = command(*arguments)
    assert done.returncode == code
    assert words in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (run_folder / "out").exists()


def test_help_tells_the_column_contract(command):
    done = command("--help")
    assert done.returncode == 0
    assert "gender_male" in done.stdout and "--predictions" in done.stdout
