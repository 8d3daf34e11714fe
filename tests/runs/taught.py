"""A teacher of random weights, for tests that need no trained one."""

from softbio_jax.params import combine
from softbio_jax.runs import build
from softbio_jax.runs.build import Run
from softbio_jax.runs.config import config_from
from softbio_jax.runs.teacher import Teacher
from tests.runs.tiny import changed, config_on


def random_teacher(data_root, *, feature=False, **changes) -> Teacher:
    """A linear probe at 48 pixels, where the tiny run has 32."""
    run = build.build(
        changed(config_on(data_root), seed=11, method={"name": "lp"}, model__image_size=48, **changes)
    )
    state, frozen = build.start(run)
    return Teacher(
        name="large",
        digest="0" * 12,
        tasks=run.config.tasks,
        feature=feature,
        image_size=run.image_size,
        model=run.model,
        variables={"params": combine(state.trainable, frozen), "batch_stats": state.batch_stats},
    )


def taught(config, teacher) -> Run:
    """The run of a nested dict with this teacher."""
    settings = {"teacher": teacher.name, "digest": teacher.digest, "feature_width": teacher.feature_width}
    settings |= {"feature": "cosine" if teacher.feature else "none"} | config.get("distill", {})
    return build.build(config_from(changed(config, distill=settings)), teacher=teacher)
