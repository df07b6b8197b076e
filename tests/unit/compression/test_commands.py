"""The command that compresses a file, as somebody at a terminal sees it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.compression.engine import Level, compress

Sample = Callable[[str], Path]
ROOT = Path(__file__).parents[3]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `flask … compress` where nothing is set up: no settings, no data, no server."""

    def call(*arguments: str | Path, said: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "flask", "--app", "app_v2", "compress", *map(str, arguments)],
            cwd=ROOT,
            env={"DATA_DIR": str(tmp_path / "none"), "PATH": "/usr/bin:/bin", "LOG_FORMAT": "json"},
            input=said,
            capture_output=True,
            text=True,
            check=False,
        )

    return call


def test_a_file_is_compressed_as_by_the_engine(
    run: Callable[..., subprocess.CompletedProcess[str]], sample: Sample, tmp_path: Path
) -> None:
    target, other = tmp_path / "small.pdf", tmp_path / "other.pdf"
    done = run(sample("photo"), target, "--level", "high", "--receipt")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    compress(sample("photo"), other, level=Level.HIGH)
    assert target.read_bytes() == other.read_bytes()
    assert done.stdout.startswith("photo.pdf: 504 kB to 27 kB, 95% less, at the level high.")
    assert "1 of 1 pages rendered and compared: similarity 0.9" in done.stdout
    assert not (tmp_path / "none").exists()


def test_the_receipt_as_json_is_that_of_the_api(
    run: Callable[..., subprocess.CompletedProcess[str]], sample: Sample, tmp_path: Path
) -> None:
    done = run(sample("password"), tmp_path / "x.pdf", "--json", "--password-stdin", said="baz\n")
    receipt = json.loads(done.stdout)
    assert receipt["encrypted"]
    assert receipt["before"]["sizes"].keys() == receipt["after"]["sizes"].keys()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("password", "needs a password"),
        ("broken", "damaged and cannot be opened: unable to find trailer"),
    ],
)
def test_what_cannot_be_compressed_is_named(
    name: str,
    says: str,
    run: Callable[..., subprocess.CompletedProcess[str]],
    sample: Sample,
    tmp_path: Path,
) -> None:
    done = run(sample(name), tmp_path / "x.pdf")
    assert done.returncode == 1
    assert f"{name}.pdf" in done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x.pdf").exists()


def test_a_folder_that_is_not_there_is_named(
    run: Callable[..., subprocess.CompletedProcess[str]], sample: Sample, tmp_path: Path
) -> None:
    done = run(sample("photo"), tmp_path / "nowhere" / "x.pdf")
    assert done.returncode == 1
    assert "There is no folder" in done.stderr
