"""What all tests share: a CPU with eight simulated devices, a compile cache, the real images."""

import importlib.util
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PARITY = ROOT / "tests" / "parity"
HAS_TORCH = importlib.util.find_spec("torch") is not None


def pytest_configure(config):
    import jax

    # By jax.config and not by XLA_FLAGS, so that a process that a test starts sees one device
    # unless the test asks for more. Work that names no device stays on the first.
    jax.config.update("jax_num_cpu_devices", 8)
    if not hasattr(config, "cache"):  # pytest -p no:cacheprovider
        return
    # In the environment, so that a process that a test starts shares the cache.
    folder = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(config.cache.mkdir("jax")))
    seconds = os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", float(seconds))


def pytest_report_header():
    import jax

    lines = [f"jax {jax.__version__}, {jax.device_count()} {jax.default_backend()} devices"]
    lines.append(f"real images: {_real_data_folder() or 'none, tests that need them skip'}")
    if not HAS_TORCH:
        lines.append("tests/parity: left out, torch is not installed (make test-parity has it)")
    return lines


def pytest_ignore_collect(collection_path):
    """Leaves the parity tests out where torch is missing: they import it at their top."""
    if not HAS_TORCH and (collection_path == PARITY or PARITY in collection_path.parents):
        return True
    return None


def pytest_collection_modifyitems(items):
    for item in items:
        if PARITY in item.path.parents:
            item.add_marker(pytest.mark.parity)
        if "real_data" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.real_data)


def _real_data_folder():
    named = os.environ.get("SOFTBIO_DATA")
    folder = pathlib.Path(named) if named else ROOT.parent / "shared" / "data"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """The folder of real face images (its README tells the layout); skips where there is none."""
    folder = _real_data_folder()
    if folder is None:
        pytest.skip("no real face images: set SOFTBIO_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    """Drawn faces in three small prepared sets."""
    from tests.runs import tiny

    root = tmp_path_factory.mktemp("prepared")
    tiny.prepare_sets(root)
    return root


@pytest.fixture
def config(data_root):
    """A run on them that takes seconds, as a nested dict."""
    from tests.runs import tiny

    return tiny.config_on(data_root)
