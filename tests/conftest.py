"""Settings of the whole suite: one compilation cache, eight simulated CPU devices, and products in full precision."""

import os
import pathlib

# Before JAX is imported. The cache makes a second run of the suite faster, and lets its processes share programs.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parent.parent / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

from mfl_jax.runtime import commandline

commandline.print_warnings()  # as the commands do
pytest.register_assert_rewrite("support.networks")  # its assertions show their values as those of a test do


def pytest_collection_modifyitems(items):
    """Puts the long files first, so that no process is left alone with one at the end; skips `ci_only` unless MFL_JAX_CI=1."""
    items.sort(key=lambda item: not {"whole_runs", "test_types.py"}.intersection(item.path.parts))
    if os.environ.get("MFL_JAX_CI") != "1":
        for item in items:
            if item.get_closest_marker("ci_only"):
                item.add_marker(pytest.mark.skip(reason="runs where MFL_JAX_CI=1 is set"))


@pytest.fixture(scope="module", autouse=True)
def compiler_settings(request):
    """Sets full matmul precision before each module, because a run that a test builds changes it for the whole process.

    Modules marked `lightly_optimised` test how programs are put together, not what they compute. They, and the processes they
    start, compile with fewer optimisations, which saves most of their time.
    """
    lightly = request.node.get_closest_marker("lightly_optimised") is not None
    jax.config.update("jax_default_matmul_precision", "highest")
    if lightly != jax.config.values["jax_disable_most_optimizations"]:
        jax.clear_caches()  # JAX would find the programs in memory whichever way they were compiled
        jax.config.update("jax_disable_most_optimizations", lightly)
    if lightly:
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    yield
    os.environ.pop("JAX_DISABLE_MOST_OPTIMIZATIONS", None)


@pytest.fixture(scope="session")
def peer():
    """The network in PyTorch; tests that compare with it are skipped where PyTorch is missing."""
    pytest.importorskip("torch")
    from benchmarks import peer

    return peer


@pytest.fixture(scope="session")
def shared_dir() -> pathlib.Path:
    """The folder of reference material beside the checkout; tests that need it are skipped where it is missing."""
    folder = pathlib.Path(os.environ.get("MFL_JAX_SHARED", pathlib.Path(__file__).parent.parent.parent / "shared"))
    if not folder.is_dir():
        pytest.skip("no folder of reference material beside the checkout")
    return folder


@pytest.fixture(scope="session")
def small_data(tmp_path_factory):
    """A folder with the `recordings` and the prepared `data` of `small.small_dataset`, and that data set; read-only.

    A test that changes files makes its own copy.
    """
    from support import small

    root = tmp_path_factory.mktemp("small_data")
    return root, small.small_dataset(root)


@pytest.fixture(scope="session")
def trained_run(small_data, tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
    """The folder of a small run trained for both tasks, and the folder of `small_data`; both read-only."""
    from support import trained_run

    root, dataset = small_data
    return trained_run.trained_run(root, dataset, tmp_path_factory.mktemp("trained") / "run"), root


@pytest.fixture(scope="session")
def evaluated_run(trained_run, tmp_path_factory) -> pathlib.Path:
    """The folder of `trained_run`, trained for longer and scored: it holds results.json. Read-only."""
    from support import trained_run as runs

    return runs.evaluated_run(*trained_run, tmp_path_factory.mktemp("evaluated") / "run")
