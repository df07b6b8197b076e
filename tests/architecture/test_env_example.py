""".env.example is the list of settings: each of them, nothing else, with its default."""

from pathlib import Path

from dotenv import dotenv_values
from pydantic import SecretStr

from backend.config import Settings

EXAMPLE = Path(__file__).parents[2] / ".env.example"


def listed() -> dict[str, str]:
    lines = [line.removeprefix("#") for line in EXAMPLE.read_text().splitlines()]
    settings = [line for line in lines if line.partition("=")[0].isupper() and "=" in line]
    return {line.partition("=")[0]: line.partition("=")[2] for line in settings}


def shown(default: object) -> str:
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    return str(default).lower() if isinstance(default, bool) else str(default)


def test_every_setting_is_listed_with_its_default_and_nothing_else() -> None:
    defaults = {name.upper(): shown(field.default) for name, field in Settings.model_fields.items()}
    assert listed() == defaults


def test_the_file_as_it_is_changes_nothing() -> None:
    assert dotenv_values(EXAMPLE) == {}
