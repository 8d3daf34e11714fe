"""How each page is executed at small scale, and which of its commands are not run and why.

python -m tests.docs.plans      prints the commands that are not run
"""

import dataclasses
import importlib.util
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.docs import standins
from tests.docs.blocks import PAGES, ROOT, Block, blocks, is_shell, steps

# (pattern, reason, module): a step that matches the pattern is not run. With a module, it is only
# skipped if the module is not installed.
NOT_RUN = (
    (r"^pip install|^make setup", "installs packages: the tests use the environment that make installed", ""),
    (r"--topology=", "minutes of the TPU compiler: tests/planning where libtpu is installed", ""),
    (r"--multihost|^#SBATCH", "other machines: tests/distributed starts processes of this one", ""),
    (r"tpu_pod\.sh|gs://", "a cloud", ""),
    (r"scripts/benchmark\.py", "minutes of torch: tests/test_benchmark_comparison.py", ""),
    (r"--checkout=", "a checkout of the official code", ""),
    (r"--tower=text", "an adapter of the text encoder: make test-parity makes some with PEFT", ""),
    (r"latency\.py --measure", "minutes of every encoder: tests/inference/test_latency.py", ""),
    (r"public_models/", "models of other registries: tests/evaluation/test_public_models.py", ""),
    (r"small_reproduction\.py (?!--report=docs/)", "hours: tests/thesis runs a study of seconds", ""),
    (
        r"data/prepared|runs/full|L14-336 --reference=goldens",
        "the complete data or encoder of the thesis: tests/data and tests/interop use small ones",
        "",
    ),
    (r"demo_app\.py", "a server: make test-app opens its page in a browser", ""),
    (r"--beam=", "Apache Beam: tests/data/test_vggface2.py where it is installed", "apache_beam"),
    (r"\blitert\b|ai_edge_litert|int8\.tflite", "LiteRT: make test-app", "litert_converter"),
    (r"parity\.py --training|training_table\.py", "torch, timm and peft: make test-parity", ""),
    (r"import timm|reference=timm|format=thesis", "torch and timm: make test-parity", "timm"),
)
# Small replacements for the large encoders and long runs of the pages.
_SHORT = (
    "--config.train.steps=4 --config.train.batch_size=8 --config.train.eval_batch_size=8"
    " --config.train.eval_every=2 --config.optimizer.warmup_steps=0"
)
_TINY_RUN = rf"\1 {_SHORT}"
_SETS = (
    """ --config.data.root=runs/demo/data --config.data.train="('synthetic_fairface/train',"""
    """'synthetic_raf_db/train')" --config.data.test="('synthetic_raf_db/test',)\""""
)
_TIMM = """timm.models.eva.Eva(
    img_size=48, patch_size=8, embed_dim=96, depth=6, num_heads=4, mlp_ratio=4.0, num_classes=64,
    global_pool="map", attn_type="rope", use_pre_transformer_norm=True, use_rot_pos_emb=True,
    ref_feat_shape=(6, 6), rope_grid_offset=1.0, rope_grid_indexing="xy", attn_pool_num_heads=8,
    attn_pool_mlp_ratio=4.0, class_token=True,
    norm_layer=lambda dim, **kw: torch.nn.LayerNorm(dim, eps=1e-5)).eval()
import numpy as np
faces = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), np.uint8)
images = torch.from_numpy(faces).permute(0, 3, 1, 2).float() / 127.5 - 1"""
_SAME_AS_JAX = """
import softbio_jax
wanted = softbio_jax.load("runs/demo/run").logits(faces)
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How a page is executed.

    Args:
      page: its path below docs/ without .md; README and CONTRIBUTING are beside docs/.
      given: functions that create what the page assumes, called with the tree.
      demo: whether a small run of the demo is provided at runs/demo.
      exchanged: (regex, replacement): replacements that make its steps small.
      checks: (regex, code): code appended to a Python block that matches the regex.
      only: a regex; steps and Python blocks that do not match are skipped.
      mark: the suite.
    """

    page: str
    given: tuple[Callable[[Any], None], ...] = ()
    demo: bool = False
    exchanged: tuple[tuple[str, str], ...] = ()
    checks: tuple[tuple[str, str], ...] = ()
    only: str = ""
    mark: str = "long"

    def small(self, text: str) -> str:
        """Returns a step with the replacements applied."""
        for pattern, replacement in self.exchanged:
            text = re.sub(pattern, replacement, text)
        return text

    def blocks(self) -> list[Block]:
        path = ROOT if self.page.isupper() else ROOT / "docs"
        return list(blocks(path / f"{self.page}.md"))


# Only check that targets of make exist: .ci/run calls each of them.
_MAKE = (r"^make (?!setup)", "make --dry-run --always-make ")
_EXPORT = {
    "demo": True,
    "exchanged": (
        (r"--variant=PE-Core-L14-336", "--variant=tiny-demo"),
        (r"--src=model_9\.pt", "--src=exports/thesis"),
        (r"--base=PE-Core-L14-336\.pt", "--base=assets/tiny_demo.safetensors"),
        (r"timm\.create_model\(.*\)\.eval\(\)", lambda match: _TIMM),
        (r"\b1024\b", "96"),
    ),
    "checks": (
        (
            r"jax\.export",
            _SAME_AS_JAX + "for task, found in logits.items():\n"
            "    assert found.shape == (5, wanted[task].shape[1])\n"
            "    np.testing.assert_allclose(found, wanted[task], atol=1e-4)\n",
        ),
        (
            r"onnxruntime",
            _SAME_AS_JAX + "for task, found in zip(wanted, (age, gender, emotion)):\n"
            "    np.testing.assert_allclose(found, wanted[task], atol=1e-4)\n",
        ),
        (
            r"ai_edge_litert",
            _SAME_AS_JAX + "for task, found in logits.items():\n"
            "    np.testing.assert_allclose(found, wanted[task], atol=1e-4)\n",
        ),
        (
            r"import timm",
            _SAME_AS_JAX + "np.testing.assert_allclose(logits.numpy(), wanted['age'], atol=1e-4)\n",
        ),
    ),
}
_OWN = (
    Plan(
        page="README",
        given=(standins.known_sets,),
        exchanged=(
            _MAKE,
            (r"(--task=emotion) --source=FOLDER --out=data/mine", r"\1 --source=FER --out=data/fer"),
            (r"FOLDER/test", "FER/test"),
            (r"train=mine/train,test=mine/test", "train=fer/train,test=fer/test,steps=4,batch_size=8"),
        ),
    ),
    Plan(page="demo", exchanged=(_MAKE,)),
    Plan(
        page="real_faces",
        given=(standins.known_sets,),
        exchanged=(
            (
                r"(--config=configs/real_faces\.py)",
                f"{_TINY_RUN} --config.model.variant=tiny-test --config.model.image_size=32",
            ),
        ),
    ),
    Plan(
        page="CONTRIBUTING",
        exchanged=(
            _MAKE,
            (r"<this repository> softbio_jax && cd softbio_jax", f"--quiet {ROOT} clone && cd clone"),
            (r"git add", "cd clone && touch tests/test_tasks.py && git add"),
            (r"git commit", "git -c user.name=me -c user.email=me@here commit --quiet"),
        ),
    ),
    Plan(page="own_data", given=(standins.own_faces,)),
    Plan(page="add_backbone"),
    Plan(
        page="architecture",
        given=(standins.architecture_page,),
        exchanged=((r"(import_graph\.py)", r"\1 --out=import_graph.svg"),),
    ),
    Plan(page="tours/tpu"),
    Plan(page="tours/parity"),
    Plan(page="tours/parity", mark="parity", only="--reference=timm"),
    Plan(
        page="tours/colab",
        given=(standins.own_faces,),
        exchanged=((r"/content/drive/MyDrive/faces", "faces"),),
        checks=(
            (
                r"^SOURCE",
                "from softbio_jax.data.prepare import prepare\n"
                "report = prepare.prepare(**SOURCE, out='data/colab')\n"
                "assert report['splits']['train']['kept'] == 24 and TASKS == SOURCE['task']\n",
            ),
        ),
    ),
    Plan(
        page="data",
        given=(standins.known_sets, standins.table, standins.photographs, standins.identities),
        exchanged=((r"--batches=30", "--batches=1 --count=8"), (r"--copies=3000", "--copies=30")),
    ),
    Plan(
        page="running",
        demo=True,
        exchanged=(
            (r"--megabytes=300", "--megabytes=2"),
            (r"(--init_from=.*|pretrained=merged.*) --config.train.steps=100", _TINY_RUN),
            (r"--data=data/fairface --rounds=\d+", "--data=runs/demo/data/synthetic_fairface --rounds=1"),
            (
                r"train=mine/train --workdir=runs/lora_sweep",
                "train=synthetic_raf_db/train,variant=tiny-demo,steps=4,batch_size=8"
                " --workdir=runs/lora_sweep --config.data.root=runs/demo/data",
            ),
            (r"--over=rates=0\.3,1,3 --over=method\.lora\.rank=4,16", "--over=rates=0.3,1"),
            (
                r"(optimizer=lbfgs),train=mine/train,test=mine/test",
                r"\1,tasks=emotion,train=synthetic_raf_db/train,test=synthetic_raf_db/test,variant=tiny-demo"
                " --config.data.root=runs/demo/data",
            ),
            (
                r"(--config=configs/thesis\.py:method=lp)",
                _TINY_RUN.replace(r"\1", r"\1,variant=tiny-demo") + _SETS,
            ),
        ),
    ),
    Plan(
        page="evaluation",
        demo=True,
        given=(standins.other_predictions, standins.other_runs),
        exchanged=(
            (
                r"--config=CONFIG\b",
                "--config=configs/demo.py --config.model.pretrained=assets/tiny_demo.safetensors"
                " --config.data.root=runs/demo/data --config.train.steps=22"
                " --config.optimizer.warmup_steps=11",
            ),
            (r"\bRUN\b", "runs/demo/run"),
            (r"=DIR\b", "=reports/beside"),
            (
                r"-m (tests\.evaluation\.interval_simulation)",
                r"-c 'from \1 import table; print(table(replicates=20))'",
            ),
        ),
    ),
    Plan(
        page="distillation",
        demo=True,
        given=(
            standins.known_sets,
            standins.prepared_fairface,
            standins.crops,
            standins.teachers,
            standins.records,
        ),
        exchanged=(
            (r"fairface/train,(crowd|fer)/train", "fairface/train"),
            (r"--student=(PE-Core-T16-384|dinov2-s14)", f"--student=tiny-test {_SHORT}"),
            (r"image_size=(96|98)", "image_size=32"),
            (r"--config.model.blocks=6", "--config.model.blocks=2"),
            (r"--config.model.pretrained=vit_small_patch14_dinov2.safetensors ", ""),
        ),
    ),
    Plan(page="foundation_study", given=(standins.known_sets, standins.records)),
    Plan(
        page="latency",
        demo=True,
        given=(standins.latency_page,),
        exchanged=((r"exports/robot exports/onnx runs/mine", "runs/demo/run --seconds=0.1"),),
    ),
    Plan(page="partial_labels", given=(standins.known_sets, standins.prepared_fairface, standins.records)),
    Plan(
        page="parity",
        given=(standins.official_encoder,),
        exchanged=(
            (r"=PE-Core-L14-336 --src=facebook/PE-Core-L14-336", "=tiny-test --src=official.safetensors"),
        ),
    ),
    Plan(page="performance", exchanged=(_MAKE,)),
    # An unreadable image is skipped and reported, with exit code 1.
    Plan(
        page="using",
        demo=True,
        given=(standins.moving_page, standins.faces_table),
        exchanged=((r"(clip\.mp4|--out=rows faces/)$", r"\1 || test $? = 1"), (r"owner/name", "me/model")),
    ),
    Plan(page="export", mark="app", **_EXPORT),
    Plan(page="export", mark="parity", only=r"keys=timm|import timm|=thesis", **_EXPORT),
)
ELSEWHERE = ("extending",)  # see tests/docs/test_extending.py
# Every other page is executed unchanged.
PLANS = (
    *_OWN,
    *(
        Plan(page=name, given=(standins.known_sets,))
        for page in PAGES
        if any(map(is_shell, blocks(page)))
        and (name := page.relative_to(ROOT).as_posix().removeprefix("docs/").removesuffix(".md"))
        not in {*ELSEWHERE, *(plan.page for plan in _OWN)}
    ),
)


def why_not(text: str, *, bare: bool = False) -> str:
    """Returns the reason why a step or a Python block is not run; empty if it is run.

    Args:
      text: the step.
      bare: assume that only the modules of make test are installed.
    """
    for pattern, why, module in NOT_RUN:
        away = not module or bare or importlib.util.find_spec(module) is None
        if away and re.search(pattern, text, re.MULTILINE):
            return why
    return ""


def left_out() -> Iterator[tuple[str, str, str]]:
    """Yields (page, step, reason) of every step that no suite runs."""
    for page in PAGES:
        name = page.relative_to(ROOT).as_posix()
        for block in blocks(page):
            for step in steps(block) if is_shell(block) else ():
                why = block.not_run or why_not(step, bare=True)
                if why and "make test-" not in why:
                    yield name, step, why


def parameters() -> list[Any]:
    """Returns the plans as test parameters."""
    return [
        pytest.param(plan, marks=getattr(pytest.mark, plan.mark), id=f"{plan.page}-{plan.mark}")
        for plan in PLANS
    ]


if __name__ == "__main__":
    for page, step, why in left_out():
        print(f"{page}: {step}\n    {why}")
