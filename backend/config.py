"""Settings: frozen, typed, read from the environment once.

This is the only module that reads the environment. A variable has the field's name in capitals;
besides the real environment, `.env` in the working folder and `sluice.env` in the data folder
are read, in that order of weight. `.env.example` lists every setting, and a test holds it so.
"""

import os
import re
import secrets
import sys
from datetime import timedelta
from pathlib import Path
from typing import Literal, Self
from urllib.parse import quote, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_CLAMD_URL = re.compile(r"unix:///[^?#]+|tcp://([\w.-]+|\[[\da-fA-F:]+\])(:\d{1,5})?")


class SettingsError(Exception):
    """A setting is missing or wrong; the message names each and says what would be right."""


class Settings(BaseSettings):
    """Everything that differs between a laptop and a cluster. Sizes in bytes, times in seconds."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    # Where things live
    data_dir: Path = Path("var")
    database_url: str = ""
    storage_url: str = ""
    storage_endpoint_url: str = ""
    storage_region: str = "us-east-1"
    aws_access_key_id: str = ""
    aws_secret_access_key: SecretStr = SecretStr("")

    # The broker: the first of these that is set
    celery_broker_url: str = ""
    redis_url: str = ""
    redis_host: str = ""
    redis_port: int = Field(6379, ge=1, le=65535)
    redis_db: int = Field(0, ge=0)
    redis_password: SecretStr = SecretStr("")
    celery_result_backend: str = ""

    # Accounts
    secret_key: SecretStr = SecretStr("")
    registration_open: bool = True
    access_token_seconds: int = Field(15 * 60, ge=1)
    refresh_token_seconds: int = Field(30 * 86400, ge=1)
    login_limit_per_account: str = "10 per 15 minutes"
    login_limit_per_address: str = "60 per 15 minutes"
    register_limit_per_address: str = "30 per hour"
    request_limit_per_user: str = "1200 per minute"

    # The web server
    web_bind: str = "127.0.0.1:5003"
    web_workers: int = Field(2, ge=1)
    web_threads: int = Field(64, ge=4)
    max_streams: int = Field(2000, ge=1)
    trusted_proxies: int = Field(0, ge=0)

    # Limits of what may be sent and kept
    max_request_bytes: int = Field(1 * GIB, ge=1)
    max_json_bytes: int = Field(4 * MIB, ge=1)
    max_file_bytes: int = Field(512 * MIB, ge=1)
    max_batch_files: int = Field(1000, ge=1)
    max_owner_bytes: int = Field(20 * GIB, ge=1)
    clamd_url: str = ""

    # The job core
    lease_seconds: float = Field(30, gt=0)
    heartbeat_seconds: float = Field(10, gt=0)
    reconcile_seconds: float = Field(5, gt=0)
    cancel_grace_seconds: float = Field(15, ge=0)
    deploy_grace_seconds: float = Field(20, ge=0, le=7 * 86400)
    job_retention_seconds: int = Field(30 * 86400, ge=0)
    artifact_retention_seconds: int = Field(7 * 86400, ge=0)
    upload_retention_seconds: int = Field(7 * 86400, ge=0)
    high_slots: int = Field(1, ge=1)
    default_slots: int = Field(2, ge=1)
    low_slots: int = Field(1, ge=1)

    # Seeing what happens
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    prometheus_multiproc_dir: str = ""

    @field_validator("database_url")
    @classmethod
    def _with_driver(cls, url: str) -> str:
        for prefix in ("postgres://", "postgresql://"):
            if url.startswith(prefix):
                url = "postgresql+psycopg://" + url.removeprefix(prefix)
        try:
            known = not url or make_url(url).get_backend_name() in {"postgresql", "sqlite"}
        except ArgumentError:
            known = False
        if not known:
            raise ValueError("it must read like postgresql://user:password@host/database")
        return url

    @field_validator("clamd_url")
    @classmethod
    def _is_a_socket(cls, url: str) -> str:
        if url and not (_CLAMD_URL.fullmatch(url) and urlsplit(url).port != 0):
            raise ValueError("it must read like unix:///run/clamav/clamd.ctl or tcp://host:3310")
        return url

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.heartbeat_seconds * 2 > self.lease_seconds:
            raise ValueError(
                f"LEASE_SECONDS is {self.lease_seconds:g}: it must be at least twice"
                f" HEARTBEAT_SECONDS ({self.heartbeat_seconds:g})"
            )
        return self

    @property
    def sqlalchemy_url(self) -> URL:
        """The ledger's address; SQLite in the data folder unless DATABASE_URL is set."""
        if self.database_url:
            return make_url(self.database_url)
        # Not written as text: a folder's name may hold what is syntax in an address.
        return URL.create("sqlite", database=str(self.data_dir.resolve() / "sluice.db"))

    @property
    def blobs_url(self) -> str:
        """Where file contents live: file:// or s3://."""
        return self.storage_url or (self.data_dir.resolve() / "blobs").as_uri()

    @property
    def workspaces(self) -> Path:
        """The folder of running jobs' scratch directories and of uploads under way."""
        return self.data_dir.resolve() / "work"

    @property
    def broker_url(self) -> str:
        """The address in kombu's form: CELERY_BROKER_URL, else the Redis server."""
        url = self.celery_broker_url or self.redis_address
        if url.startswith("rediss://") and "ssl_" not in urlsplit(url).query:
            # kombu by itself would take any certificate.
            url += ("&" if "?" in url else "?") + "ssl_cert_reqs=required"
        if url.startswith("unix://"):
            return "redis+socket://" + url.removeprefix("unix://").replace("?db=", "?virtual_host=")
        return url

    @property
    def broker_redis_address(self) -> str:
        """The broker in redis-py's form; empty where it is another server."""
        return _as_redis(self.broker_url)

    @property
    def redis_address(self) -> str:
        """The Redis server in redis-py's form; empty where the broker is not Redis."""
        if self.redis_url:
            return self.redis_url
        if self.celery_broker_url and not self.redis_host:
            return _as_redis(self.celery_broker_url)
        password = quote(self.redis_password.get_secret_value(), safe="")
        login = f":{password}@" if password else ""
        host = self.redis_host or "127.0.0.1"
        return f"redis://{login}{host}:{self.redis_port}/{self.redis_db}"

    @property
    def most_waiting(self) -> int:
        """Threads of a web process that may wait for news; the others are left for requests."""
        return self.web_threads * 3 // 4

    @property
    def lease(self) -> timedelta:
        """For how long a claim holds without a heartbeat."""
        return timedelta(seconds=self.lease_seconds)


def _as_redis(broker_url: str) -> str:
    """The redis-py form of a broker's URL, or nothing when the broker is another server."""
    parts = urlsplit(broker_url)
    if parts.scheme in {"redis", "rediss"}:
        return broker_url
    if parts.scheme == "redis+socket":
        query = parts.query.replace("virtual_host=", "db=")
        return f"unix://{parts.path}" + (f"?{query}" if query else "")
    return ""


def load_settings() -> Settings:
    """Read the settings; raise SettingsError with one line per setting that is wrong.

    The data folder's own file is where `scripts/up` keeps secrets and addresses, so that
    `celery -A celery_app …` and `flask --app app_v2 …` find them from the project's root.
    """
    data_dir = Path(os.environ.get("DATA_DIR", "") or "var")
    try:
        settings = Settings(_env_file=(data_dir / "sluice.env", ".env"), _env_file_encoding="utf-8")
    except ValidationError as error:
        lines = [_sentence(dict(detail)) for detail in error.errors()]
        raise SettingsError("\n".join(lines)) from None
    if not settings.secret_key.get_secret_value() and _works_on_files_alone():
        key = SecretStr(secrets.token_hex(32))
        return settings.model_copy(update={"secret_key": key})
    return settings


def _works_on_files_alone() -> bool:
    """Whether this is `flask … compress`, which signs and seals nothing, and so needs no secret."""
    return os.environ.get("FLASK_RUN_FROM_CLI") == "true" and "compress" in sys.argv[1:]


def _sentence(detail: dict[str, object]) -> str:
    where = detail.get("loc") or ()
    message = str(detail.get("msg", "")).removeprefix("Value error, ")
    if not (isinstance(where, tuple) and where):
        return message
    return f"{str(where[0]).upper()} is {detail.get('input')!r}: {message[:1].lower()}{message[1:]}"
