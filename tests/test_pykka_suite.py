from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import zlib
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

import pytest

import codex_actors

# Tests of pykka that do not hold for our actors. A key is a test id, or the beginning of some.
DEVIATIONS = {
    "tests/test_logging.py::test_base_exception_is_logged": (
        "a BaseException ends the actor that raised it, not every actor of the process, so no debug line says it does"
    ),
    "tests/test_threading_actor.py": "about ThreadingActor and its OS thread; takes no runtime",
}

DOWNLOAD_TIMEOUT_S = 120
SUITE_TIMEOUT_S = 180

# The line before which our runtime takes the place of pykka's in its `tests/conftest.py`: the table below which it
# stands is read once, by this fixture.
READS_THE_TABLE = '@pytest.fixture(scope="session", params=RUNTIMES.values())\n'
OUR_RUNTIME = """
from codex_actors.testing import pykka_classes

_actor_class, _future_class = pykka_classes()
RUNTIMES.clear()
RUNTIMES["loop"] = pytest.param(
    Runtime(
        name="loop",
        actor_class=_actor_class,
        event_class=threading.Event,
        future_class=_future_class,
        sleep_func=time.sleep,
    ),
    id="loop",
)


"""


def cache_dir(name: str) -> Path:
    # In the system's temporary folder, which others may write to: what is not ours alone is not used.
    uid = os.getuid() if hasattr(os, "getuid") else 0
    path = Path(tempfile.gettempdir()) / f"codex-actors-{uid}" / name
    for folder in (path.parent, path):
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or (hasattr(os, "getuid") and folder.stat().st_uid != uid):
            pytest.fail(f"{folder} belongs to somebody else; remove it, or set TMPDIR to a folder of your own")
    return path


def is_whole(archive: Path) -> bool:
    try:
        with tarfile.open(archive, "r:gz") as tar:
            # Reading to the end checks the checksum of the compression.
            return any(member.name.endswith("/tests/conftest.py") for member in tar.getmembers())
    except (OSError, EOFError, tarfile.TarError, zlib.error):
        return False


def download_source(pykka_version: str) -> Path:
    folder = cache_dir(f"pykka-{pykka_version}")
    kept = folder / f"pykka-{pykka_version}.tar.gz"
    if is_whole(kept):
        return kept
    # `--no-binary pykka`, not `:all:`, which would also build the tools that pykka is built with.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--retries", "1", "--timeout", "15", "--no-deps", "--no-binary", "pykka", f"pykka=={pykka_version}"]
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        try:
            done = subprocess.run(
                [*command, "--dest", fresh], capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False
            )
            problem = done.stderr.strip()[-500:]
        except subprocess.TimeoutExpired:
            problem = f"no answer within {DOWNLOAD_TIMEOUT_S} s"
        # Older packages spell their name with a capital.
        got = [path for path in Path(fresh).glob("*.tar.gz") if is_whole(path)]
        if not got:
            pytest.skip(f"the source package of pykka {pykka_version} cannot be had, its suite was not run: {problem}")
        got[0].replace(kept)
    return kept


def unpack(archive: Path, folder: Path) -> Path:
    # Regular files below `folder` only, whatever the archive names.
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            target = (folder / member.name).resolve()
            content = tar.extractfile(member) if member.isreg() else None
            if content is not None and target.is_relative_to(folder.resolve()):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())
    (conftest,) = folder.glob("*/tests/conftest.py")
    return conftest.parents[1]


def put_our_runtime_in(tree: Path) -> None:
    conftest = tree / "tests" / "conftest.py"
    text = conftest.read_text(encoding="utf-8")
    assert text.count(READS_THE_TABLE) == 1, "pykka's conftest has changed its shape: see READS_THE_TABLE"
    conftest.write_text(text.replace(READS_THE_TABLE, OUR_RUNTIME + READS_THE_TABLE), encoding="utf-8")


def run_pytest(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # The host's pytest options and plugins stay outside, so that the suite is the same everywhere.
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    env |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONUNBUFFERED": "1"}
    env["PYTHONPATH"] = str(Path(codex_actors.__file__).parents[1])
    command = [sys.executable, "-m", "pytest", "-p", "pytest_mock", "-p", "no:cacheprovider", "-c", "pyproject.toml"]
    command += ["-o", "faulthandler_timeout=60", "-o", "faulthandler_exit_on_timeout=true", *arguments, "tests"]
    try:
        return subprocess.run(
            command,
            cwd=tree,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SUITE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        output = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else error.stdout
        pytest.fail(f"pykka's suite did not end within {SUITE_TIMEOUT_S} s:\n{(output or '')[-5_000:]}")


def names_that_ran(report: Path) -> list[str]:
    cases = ElementTree.parse(report).iter("testcase")
    return [case.get("name", "") for case in cases if case.find("skipped") is None]


@pytest.fixture(scope="module")
def pykka_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("pytest_mock", reason="pykka's suite needs pytest-mock")
    return unpack(download_source(version("pykka")), tmp_path_factory.mktemp("pykka"))


@pytest.fixture(scope="module")
def tree_with_our_runtime(pykka_tree: Path) -> Path:
    put_our_runtime_in(pykka_tree)
    return pykka_tree


@pytest.mark.pykka_suite
def test_suite_of_pykka_passes_on_our_actors(tree_with_our_runtime: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    deselected = [f"--deselect={test_id}" for test_id in DEVIATIONS]
    done = run_pytest(tree_with_our_runtime, "-q", "--tb=short", f"--junit-xml={report}", *deselected)
    assert done.returncode == 0, done.stdout[-8_000:]
    ran = names_that_ran(report)
    assert len(ran) >= 100
    # Most tests of pykka take a runtime. If none did, ours was not the one that was tested.
    assert len([name for name in ran if "[loop" in name]) > len(ran) / 2


@pytest.mark.pykka_suite
def test_every_deviation_is_a_test_of_pykka(tree_with_our_runtime: Path) -> None:
    done = run_pytest(tree_with_our_runtime, "-q", "--collect-only")
    assert done.returncode == 0, done.stdout[-8_000:]
    collected = [line for line in done.stdout.splitlines() if "::" in line]
    assert [key for key in DEVIATIONS if not any(test_id.startswith(key) for test_id in collected)] == []


def test_archive_with_paths_outside_is_not_followed(tmp_path: Path) -> None:
    archive, folder = tmp_path / "bad.tar.gz", tmp_path / "into"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("pykka-1/tests/conftest.py", "../escaped.py", str(tmp_path / "absolute.py")):
            tar.addfile(tarfile.TarInfo(name))
        link = tarfile.TarInfo("pykka-1/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/"
        tar.addfile(link)
    assert unpack(archive, folder) == folder / "pykka-1"
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "bad.tar.gz",
        "conftest.py",
        "into",
        "pykka-1",
        "tests",
    ]


def test_cut_archive_is_not_taken_as_whole(tmp_path: Path) -> None:
    archive = tmp_path / "pykka.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("pykka-1/tests/conftest.py"))
    assert is_whole(archive)
    archive.write_bytes(archive.read_bytes()[:-20])
    assert not is_whole(archive)
    assert not is_whole(tmp_path / "missing.tar.gz")


def test_suite_that_never_ran_counts_nothing(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text('<testsuites><testsuite><testcase name="a"><skipped/></testcase></testsuite></testsuites>')
    assert names_that_ran(report) == []
