import pytest

from softbio_jax.errors import UserError


def test_tells_what_where_expected_found_and_fix():
    error = UserError("unknown class", where="a.csv row 3", expected="Male", found="'m'", fix="rename it")
    assert str(error) == "unknown class: a.csv row 3: expected Male, found 'm'; fix: rename it"


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        ({}, "no such folder"),
        ({"where": "/data"}, "no such folder: /data"),
        ({"expected": "a folder"}, "no such folder: expected a folder"),
        ({"found": "a file"}, "no such folder: found a file"),
        ({"fix": "make it"}, "no such folder; fix: make it"),
    ],
)
def test_leaves_out_what_is_not_given(parts, line):
    assert str(UserError("no such folder", **parts)) == line


def test_is_one_line_whatever_it_quotes():
    assert "\n" not in str(UserError("bad\nrow", found="a\r\n\tb"))


def test_is_a_value_error_for_callers_who_know_no_more():
    with pytest.raises(ValueError, match="bad row"):
        raise UserError("bad row")


def test_contents_in_place_of_a_name_are_shortened():
    path = "/".join(["folder"] * 60)
    line = str(UserError("no such image", where="a.csv", found=f"{path} or {'x' * 5000}", fix="name files"))
    assert path in line and len(line) < len(path) + 200
    assert f"{'x' * 60}... (5,000 characters); fix: name files" in line
