"""Every key of a configuration is explained, by `softbio-jax config` and by --help."""

import dataclasses

import pytest

from softbio_jax import __main__ as console
from softbio_jax import command, ranges
from softbio_jax.adapters.config import LoRAConfig
from softbio_jax.adapters.methods import METHODS
from softbio_jax.data.sampling import SAMPLERS
from softbio_jax.errors import UserError
from softbio_jax.losses.balancing import BALANCERS
from softbio_jax.models.config import TextConfig, VisionConfig
from softbio_jax.runs.config import RunConfig

KEYS = {field.name: field for field in ranges.documented(RunConfig)}


def explained(capsys, *keys):
    console._explain(keys)
    return capsys.readouterr().out


@pytest.mark.parametrize("cls", [RunConfig, LoRAConfig])
def test_every_field_has_a_meaning_and_values(cls):
    fields = list(ranges.documented(cls))
    assert [field.name for field in fields if not field.meaning or not field.values] == []


@pytest.mark.parametrize("cls", [RunConfig, LoRAConfig, VisionConfig, TextConfig])
def test_no_field_is_left_out(cls):
    def names(of, prefix=""):
        for field in dataclasses.fields(of):
            hint = ranges.hints(of)[field.name]
            if dataclasses.is_dataclass(hint):
                yield from names(hint, f"{prefix}{field.name}.")
            else:
                yield prefix + field.name

    assert [field.name for field in ranges.documented(cls)] == list(names(cls))


def test_a_comment_of_several_lines_belongs_to_the_field_below():
    @dataclasses.dataclass
    class Settings:
        plain: int
        # the first line
        # and the second
        rate: float = 0.5  # in images/s
        switch: bool = True  # type: ignore[assignment]

    meanings = {field.name: field.meaning for field in ranges.documented(Settings)}
    assert meanings == {"plain": "", "rate": "the first line and the second in images/s", "switch": ""}


@pytest.mark.parametrize("key", ["train.batch_size", "config.train.batch_size", "--config.train.batch_size"])
def test_a_key_as_people_write_it(key, capsys):
    field = KEYS["train.batch_size"]
    out = explained(capsys, key)
    assert out.startswith("train.batch_size\n")
    assert field.meaning in out and field.values in out


def test_groups_and_all_keys(capsys):
    group = [name for name in KEYS if name.startswith("optimizer.")]
    found = [line.split(" = ")[0] for line in explained(capsys, "optimizer").splitlines() if line[0] != " "]
    assert found == group
    everything = [line.split(" = ")[0] for line in explained(capsys).splitlines() if line[0] != " "]
    assert everything == list(KEYS)


@pytest.mark.parametrize(
    ("key", "names"), [("method", METHODS), ("data.sampler", SAMPLERS), ("balancing.kind", BALANCERS)]
)
def test_what_a_name_chooses_from(key, names, capsys):
    out = explained(capsys, key)
    assert [name for name in names if f"\n{name}: " not in out] == []


@pytest.mark.parametrize(("key", "right"), [("train.stpes", "train.steps"), ("optimiser", "optimizer")])
def test_an_unknown_key_is_corrected(key, right):
    with pytest.raises(UserError, match=f"{key}.*write '{right}'"):
        console._explain([key])


def test_help_names_keys_that_exist():
    names = [key.removesuffix(".GROUP") for key in command.COMMON_KEYS]
    assert [name for name in names if name not in KEYS] == []
