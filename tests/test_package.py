"""What is installed: the console command, its completion, and a wheel without the repository."""

import os
import pathlib
import re
import shutil
import site
import subprocess
import sys
import tarfile
import venv

import numpy as np
import pytest
from absl import flags
from PIL import Image

from softbio_jax import __main__ as program
from softbio_jax import command, console
from softbio_jax.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture
def started(monkeypatch):
    monkeypatch.setattr(console, "started_as", "")
    return console.start_as


def test_every_script_is_a_command():
    assert {f"{script}.py" for script in console.COMMANDS.values()} == {
        path.name for path in (ROOT / "scripts").glob("*.py")
    }


def test_the_list_has_every_command_with_its_purpose(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["softbio-jax"])
    program.main()
    lines = capsys.readouterr().out.splitlines()
    for name in console.COMMANDS:
        (line,) = [line for line in lines if line.startswith(f"  {name} ")]
        assert len(line.split()) > 4


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["trian"], "write 'train'"), (["xyz"], "softbio-jax --help"), (["completion", "cmd"], "bash")],
)
def test_a_mistake_names_what_there_is(monkeypatch, arguments, expected):
    monkeypatch.setattr(sys, "argv", ["softbio-jax", *arguments])
    with pytest.raises(UserError) as error:
        program.main()
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_a_mistake_in_the_command_line_is_one_line_and_exit_code_2():
    done = subprocess.run(
        [sys.executable, "-m", "softbio_jax", "no-such"], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: .*\n", done.stderr)


@pytest.mark.parametrize("name", ["config", "completion bash", "--help"])
def test_a_reader_that_ends_early_is_no_error(name):
    command_line = f"set -o pipefail; '{sys.executable}' -m softbio_jax {name} | true"
    done = subprocess.run(
        ["bash", "-c", command_line], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) in ((141, ""), (0, ""))


def test_messages_name_commands_as_they_were_started(started):
    text = (
        "run scripts/prepare_data.py, then python scripts/train.py --x; see my_scripts/train.py, scripts/x.py"
    )
    assert console.as_started(text) == text
    started("softbio-jax evaluate")
    assert console.as_started(text) == (
        "run softbio-jax prepare, then softbio-jax train --x; see my_scripts/train.py, scripts/x.py"
    )


def test_messages_of_a_script_name_commands_that_run_in_the_shell_that_started_it(started, monkeypatch):
    python = str(pathlib.Path(sys.executable))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(pathlib.Path(python).parent.parent)
    assert console.interpreter() == f"bin/{pathlib.Path(python).name}"
    monkeypatch.chdir("/")
    monkeypatch.setenv("PATH", str(pathlib.Path(python).parent))
    assert console.interpreter() == "python"
    started(".venv/bin/python ../x/scripts/train.py")
    text = "scripts/plan.py fits; report: scripts/report.py runs/a --out=DIR; python scripts/demo.py --out=x"
    assert console.as_started(text) == (
        "scripts/plan.py fits; report: .venv/bin/python ../x/scripts/report.py runs/a --out=DIR; "
        "python scripts/demo.py --out=x"
    )


@pytest.mark.parametrize("flag", ["--config", "--config.model.pretrained"])
def test_files_of_the_package_are_found_from_any_folder(tmp_path, monkeypatch, flag):
    monkeypatch.chdir(tmp_path)
    assert command._shipped(f"{flag}=configs/demo.py:a=b:c") == f"{flag}={ROOT}/configs/demo.py:a=b:c"
    assert command._shipped(f"{flag}=configs/mine.py") == f"{flag}=configs/mine.py"
    assert command._shipped(f"{flag}=other/configs/demo.py") == f"{flag}=other/configs/demo.py"
    # A file of the user's own comes first.
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.py").touch()
    assert command._shipped(f"{flag}=configs/demo.py") == f"{flag}=configs/demo.py"


def completions(line, tmp_path, shell="bash"):
    """Returns what bash would complete the last word of a command line to."""
    words = re.split(r"(?<==)|(?==)| ", line)
    script = tmp_path / "completion"
    script.write_text(program._completion(shell))
    body = (
        f"source {script}; COMP_WORDS=({' '.join(f'{word!r}' for word in words)}); "
        f"COMP_CWORD={len(words) - 1}; COMP_LINE={line!r}; COMP_POINT={len(line)}; "
        '_softbio_jax 2>/dev/null; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    return subprocess.run(["bash", "-c", body], capture_output=True, text=True, check=True).stdout.split()


def test_bash_completes_commands_flags_and_configurations(tmp_path):
    assert completions("softbio-jax ex", tmp_path) == ["export"]
    assert "--workdir=" in completions("softbio-jax train --w", tmp_path)
    assert "--dry_run" in completions("softbio-jax train --d", tmp_path)
    assert completions("softbio-jax train --config=configs/th", tmp_path) == ["configs/thesis.py"]
    assert completions("softbio-jax evaluate --config=configs/th", tmp_path) == []


def test_fish_has_every_flag_of_every_command():
    text = program._completion("fish")
    assert "__fish_seen_subcommand_from predict' -l faces" in text
    assert "from plan' -l topology" in text


@pytest.mark.parametrize("name", ["predict", "prepare"])
def test_completion_knows_the_flags_that_a_script_defines(name):
    values = flags.FlagValues()
    source = command.script_of(name).read_text()
    for kind, flag in re.findall(r"flags\.(DEFINE_\w+)\(\s*\"(\w+)\"", source):
        flags.DEFINE_bool(flag, False, kind, flag_values=values)
    assert set(values) <= {flag.strip("-=") for flag in program._flags(name)}
    assert len(list(values)) > 5


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel, built from the source distribution as a package index would."""
    folder = tmp_path_factory.mktemp("dist")
    copy = folder / "copy"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    # The source distribution first, and the wheel from that.
    run([sys.executable, "-m", "build", "--outdir", folder, copy], cwd=folder)
    (source,) = folder.glob("*.tar.gz")
    shutil.rmtree(copy)
    (wheel,) = folder.glob("*.whl")
    return source, wheel


def run(arguments, **options):
    done = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, timeout=600, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.long
def test_the_source_distribution_has_the_tests(built):
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    left_out = {name for name in wanted if not name.startswith((".ci", ".github", ".gitignore"))} - names
    assert left_out == set()


@pytest.mark.long
def test_a_wheel_goes_from_images_to_predictions_without_the_repository(built, tmp_path):
    """The dependencies are this environment's; the package and its commands are the wheel's."""
    home = tmp_path / "env"
    venv.create(home, with_pip=False)
    (packages,) = home.glob("lib/python*/site-packages")
    # A line of a .pth file adds a folder, but not the editable installation of this one.
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    python = home / "bin" / "python"
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--ignore-installed", built[1]]
    run([python, *install], cwd=tmp_path)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    here = tmp_path / "anywhere"
    here.mkdir()
    draw = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for number in range(count):
            for name, level in (("happy", 60), ("sad", 180)):
                file = here / "faces" / split / name / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(draw.integers(level, level + 40, (48, 48, 3), np.uint8)).save(file)

    def softbio(*arguments):
        return run([home / "bin" / "softbio-jax", *arguments], cwd=here, env=environment)

    where = run([python, "-c", "import softbio_jax; print(softbio_jax.__file__)"], cwd=here, env=environment)
    assert pathlib.Path(where.strip()).is_relative_to(home)
    softbio("prepare", "--dataset=folder", "--task=emotion", "--source=faces", "--out=data/mine")
    printed = softbio(
        "train",
        "--workdir=run",
        "--config=configs/finetune.py:method=lora,tasks=emotion,train=mine/train,test=mine/test,steps=4,batch_size=8",
        "--config.data.root=data",
        "--config.model.pretrained=assets/tiny_demo.safetensors",
    )
    assert "scripts/" not in printed
    softbio("predict", "--model=run", "--faces=crop", "--out=rows.csv", "faces/test")
    rows = (here / "rows.csv").read_text().splitlines()
    assert len(rows) == 1 + 8
    softbio("report", "run", "--out=report")
    assert (here / "report" / "report.html").is_file()
    compared = softbio("parity", "--variant=tiny-faces", "--reference=goldens", "--size=36x60")
    assert "every stage agrees" in compared
