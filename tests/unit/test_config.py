"""Settings: what deployments set already is honoured, and what is wrong is named."""

from pathlib import Path
from typing import Any

import pytest

from backend.config import Settings, SettingsError, load_settings


def settings_of(**values: Any) -> Settings:
    return Settings(_env_file=None, **values)


@pytest.mark.parametrize(
    ("values", "broker", "redis"),
    [
        ({"redis_url": "unix:///a/b.sock"}, "redis+socket:///a/b.sock", "unix:///a/b.sock"),
        (
            {"redis_url": "unix:///a/b.sock?db=2"},
            "redis+socket:///a/b.sock?virtual_host=2",
            "unix:///a/b.sock?db=2",
        ),
        (
            {"redis_url": "rediss://:x@r:1/2"},
            "rediss://:x@r:1/2?ssl_cert_reqs=required",
            "rediss://:x@r:1/2",
        ),
        (
            {"redis_url": "rediss://r/2?ssl_ca_certs=/a"},
            "rediss://r/2?ssl_ca_certs=/a",
            "rediss://r/2?ssl_ca_certs=/a",
        ),
        (
            {"redis_host": "r", "redis_port": 1, "redis_db": 2, "redis_password": "p/w"},
            "redis://:p%2Fw@r:1/2",
            "redis://:p%2Fw@r:1/2",
        ),
        ({}, "redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ({"celery_broker_url": "redis://b/1"}, "redis://b/1", "redis://b/1"),
        (
            {"celery_broker_url": "redis://b/1", "redis_url": "redis://r/2"},
            "redis://b/1",
            "redis://r/2",
        ),
        ({"celery_broker_url": "amqp://b//"}, "amqp://b//", ""),
        ({"celery_broker_url": "amqp://b//", "redis_host": "r"}, "amqp://b//", "redis://r:6379/0"),
    ],
)
def test_the_broker_is_the_first_that_is_set(
    values: dict[str, Any], broker: str, redis: str
) -> None:
    settings = settings_of(**values)
    assert (settings.broker_url, settings.redis_address) == (broker, redis)
    in_redis_form = "" if broker.startswith("amqp") else broker.replace("redis+socket", "unix")
    assert settings.broker_redis_address == in_redis_form.replace("virtual_host", "db")


@pytest.mark.parametrize("folder", ["plain", "what?", "100%", "a#b", "a b", "a@b:c"])
def test_the_database_is_in_the_data_folder_whatever_its_name(tmp_path: Path, folder: str) -> None:
    settings = settings_of(data_dir=tmp_path / folder)
    assert settings.sqlalchemy_url.database == str(tmp_path / folder / "sluice.db")


def test_postgresql_is_reached_by_psycopg() -> None:
    for url in ("postgres://u:p@h/d", "postgresql://u:p@h/d", "postgresql+psycopg://u:p@h/d"):
        found = settings_of(database_url=url).sqlalchemy_url
        assert found.render_as_string(hide_password=False) == "postgresql+psycopg://u:p@h/d"


@pytest.mark.parametrize(
    "url", ["", "unix:///run/clamav/clamd.ctl", "tcp://av.example.org:3310", "tcp://[::1]:3310"]
)
def test_clamd_is_named_by_its_socket(url: str) -> None:
    assert settings_of(clamd_url=url).clamd_url == url


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("DATABASE_URL", "mysql://h/d", "DATABASE_URL is 'mysql://h/d': it must read like"),
        ("DATABASE_URL", "nonsense", "DATABASE_URL is 'nonsense': it must read like"),
        ("WEB_THREADS", "many", "WEB_THREADS is 'many'"),
        ("LEASE_SECONDS", "5", "LEASE_SECONDS is 5: it must be at least twice HEARTBEAT_SECONDS"),
        ("MAX_STREAMS", "0", "MAX_STREAMS is '0'"),
        ("CLAMD_URL", "/run/clamd", "CLAMD_URL is '/run/clamd': it must read like unix:///run/"),
        ("CLAMD_URL", "unix://run/clamd", "CLAMD_URL is 'unix://run/clamd': it must read like"),
        ("CLAMD_URL", "tcp://:3310", "CLAMD_URL is 'tcp://:3310': it must read like"),
        ("CLAMD_URL", "tcp://h:0", "CLAMD_URL is 'tcp://h:0': it must read like"),
        ("CLAMD_URL", "tcp://h:66000", "CLAMD_URL is 'tcp://h:66000': port out of range"),
    ],
)
def test_a_wrong_setting_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refusal:
        load_settings()
    assert said in str(refusal.value)
