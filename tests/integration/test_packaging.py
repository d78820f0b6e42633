"""Wheel and sdist hold what an installation needs; built and installed without a network."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from transformers_lighttoken import __version__

pytest.importorskip("hatchling", reason="builds the package")
ROOT = Path(__file__).parents[2]
NEEDED = ("py.typed", "hub_cards/card_template.md.jinja")


def run(*command: object) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module", name="built")
def _built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", folder)
    return folder


def test_the_wheel_holds_package_types_and_cards(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    cards = {path.relative_to(ROOT).as_posix() for path in (ROOT / "hub_cards").rglob("*") if path.is_file()}
    assert {f"transformers_lighttoken/{name}" for name in (*NEEDED, *cards)} <= names
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "transformers_lighttoken").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules


def test_the_sdist_holds_the_sources_and_builds_the_same_wheel(built: Path, tmp_path: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "tests", "hub_cards"} <= names
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", tmp_path / "again", sdist)
    (first,), (again,) = built.glob("*.whl"), (tmp_path / "again").glob("*.whl")
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(first).namelist())


def test_the_installed_wheel_has_its_commands_and_finds_its_cards(built: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    (wheel,) = built.glob("*.whl")
    python = tmp_path / "venv" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    run(*pip, "install", "--no-deps", "--no-index", wheel)
    home = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (home / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # they are not installed anew
    assert (home / "transformers_lighttoken" / "py.typed").is_file()
    assert run(python.with_name("lighttoken"), "--version").strip() == __version__
    assert (python.with_name("hf-lighttoken")).read_text() == python.with_name("lighttoken").read_text()
    found = run(
        python, "-P", "-c", "import transformers_lighttoken.hub.card as c; print(c.__file__, c._PACKAGE / 'hub_cards')"
    )
    assert all(word.startswith(str(home)) for word in found.split()), found
