"""The image and the compose file, read for what must hold; no engine is needed."""

import re
import shlex
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.integration

OURS = ("migrate", "web", "worker-high", "worker-default", "worker-low", "beat")
GRACE_SECONDS = 20


@pytest.fixture
def compose(deploy: Path) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((deploy / "docker/compose.yaml").read_text())
    return read


@pytest.fixture
def instructions(deploy: Path) -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, arguments), with continued lines joined."""
    text = re.sub(r"^#.*\n", "", (deploy / "docker/Dockerfile").read_text(), flags=re.MULTILINE)
    logical = text.replace("\\\n", " ").splitlines()
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in logical if line.strip()]


def test_the_image_does_not_run_as_root(instructions: list[tuple[str, str]]) -> None:
    last_stage = [name for name, _ in instructions][::-1].index("FROM")
    users = [value for name, value in instructions[-last_stage:] if name == "USER"]

    assert users == ["10001:10001"]


def test_the_image_installs_only_what_the_lock_names(instructions: list[tuple[str, str]]) -> None:
    installs = [value for name, value in instructions if name == "RUN" and "pip install" in value]

    assert len(installs) == 1
    assert "--require-hashes" in installs[0]
    assert not [value for name, value in instructions if name == "ADD"]


def test_the_images_command_gets_the_signals(instructions: list[tuple[str, str]]) -> None:
    for name, value in instructions:
        if name in {"CMD", "ENTRYPOINT"}:
            assert value.startswith("["), f"{name} in the shell's form would keep the signals"
    (entry,) = [value for name, value in instructions if name == "ENTRYPOINT"]
    assert 'exec \\"$@\\"' in entry


def test_the_image_tells_whether_it_is_well(instructions: list[tuple[str, str]]) -> None:
    (check,) = [value for name, value in instructions if name == "HEALTHCHECK"]
    assert "/healthz" in check


def test_the_image_takes_every_file_that_its_context_lets_in(
    deploy: Path, root: Path, instructions: list[tuple[str, str]]
) -> None:
    let_in = re.findall(
        "^!(.+)$", (deploy / "docker/Dockerfile.dockerignore").read_text(), re.MULTILINE
    )
    copied = [
        source
        for name, value in instructions
        if name == "COPY" and "--from" not in value
        for source in shlex.split(value)[:-1]
    ]

    assert sorted(copied) == sorted(let_in)
    assert [path for path in let_in if not (root / path).exists()] == []


def test_our_containers_can_change_nothing_but_their_data(compose: dict[str, Any]) -> None:
    for name in OURS:
        service = compose["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["volumes"] == ["data:/var/lib/sluice"]


def test_every_container_is_watched_or_says_why_not(compose: dict[str, Any]) -> None:
    unwatched = {
        name
        for name, service in compose["services"].items()
        if service.get("healthcheck", {}).get("disable")
    }

    assert unwatched == {"migrate", "beat"}


def test_stopping_leaves_room_for_the_grace_of_a_deploy(compose: dict[str, Any]) -> None:
    for name in OURS:
        if name.startswith("worker"):
            period = compose["services"][name]["stop_grace_period"]
            assert int(period.removesuffix("s")) >= GRACE_SECONDS + 15


def test_only_the_web_server_listens_and_only_on_this_machine(compose: dict[str, Any]) -> None:
    ports = {name: s["ports"] for name, s in compose["services"].items() if "ports" in s}

    assert ports == {"web": ["127.0.0.1:${WEB_PORT:-5003}:5003"]}
    assert compose["networks"]["inside"] == {"internal": True}
    assert compose["services"]["postgres"]["networks"] == ["inside"]
    assert compose["services"]["redis"]["networks"] == ["inside"]


def test_no_secret_stands_in_the_file(deploy: Path, compose: dict[str, Any]) -> None:
    text = (deploy / "docker/compose.yaml").read_text()

    assert {each["file"].split("/")[0] for each in compose["secrets"].values()} == {"secrets"}
    assert not re.search(r"://\w*:\w+@", text)


def test_the_secrets_are_made_to_fit_together(deploy: Path, tmp_path: Path) -> None:
    script = shutil.copy(deploy / "docker/make-secrets", tmp_path)

    subprocess.run([script], check=True, capture_output=True)

    folder = tmp_path / "secrets"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    settings = dict(line.split("=", 1) for line in (folder / "sluice.env").read_text().splitlines())
    assert len(settings["SECRET_KEY"]) == 64
    password = (folder / "postgres_password").read_text()
    assert (
        settings["DATABASE_URL"] == f"postgresql+psycopg://sluice:{password}@postgres:5432/sluice"
    )
    redis = (folder / "redis.conf").read_text().removeprefix("requirepass ").strip()
    assert settings["REDIS_URL"] == f"redis://:{redis}@redis:6379/0"
    again = subprocess.run([script], check=False, capture_output=True)
    assert again.returncode == 1


def test_docker_compose_reads_the_file(deploy: Path, environment: dict[str, str]) -> None:
    command = ["docker", "compose", "-f", str(deploy / "docker/compose.yaml"), "config", "--quiet"]
    try:
        subprocess.run([*command[:2], "version"], check=True, capture_output=True, env=environment)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("docker compose is not installed; nothing else needs it")

    read = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert (read.stderr, read.returncode) == ("", 0)
