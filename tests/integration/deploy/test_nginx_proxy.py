"""The proxy's configuration in a real nginx, before a real gunicorn with ours."""

import http.client
import json
import os
import re
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.deploy.conftest import Start, Until

pytestmark = [pytest.mark.integration, pytest.mark.needs("nginx", "openssl")]

MAIN = """
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/sluice.conf;
}}
"""


@dataclass(frozen=True)
class Proxy:
    """Where the proxy listens, and what stands behind it."""

    config: Path
    https: int
    http: int
    upstream: int
    certificate: Path

    @contextmanager
    def connection(self) -> Iterator[http.client.HTTPSConnection]:
        """An encrypted connection whose certificate is checked."""
        context = ssl.create_default_context(cafile=self.certificate)
        link = http.client.HTTPSConnection("127.0.0.1", self.https, timeout=10, context=context)
        with closing(link):
            yield link

    def get(self, path: str, headers: dict[str, str] | None = None) -> http.client.HTTPResponse:
        with self.connection() as link:
            link.request("GET", path, headers=headers or {})
            answer = link.getresponse()
            answer.body = answer.read()  # type: ignore[attr-defined]
            return answer

    def seen(self, path: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
        """What the application saw of a request."""
        seen: dict[str, Any] = json.loads(self.get(path, headers).body)  # type: ignore[attr-defined]
        return seen


@pytest.fixture
def proxy(
    deploy: Path, tmp_path: Path, make_certificate: Callable[[], Path], free_port: Callable[[], int]
) -> Proxy:
    """The configuration with its ports and its certificate changed, and nothing else."""
    certificate = make_certificate()
    folder = tmp_path / "nginx"
    folder.mkdir()
    https, http_, upstream = free_port(), free_port(), free_port()
    text = (deploy / "nginx/sluice.conf").read_text()
    for old, new in {
        "listen 443 ssl http2;": f"listen 127.0.0.1:{https} ssl http2;",
        "listen 80;": f"listen 127.0.0.1:{http_};",
        "listen [::]:443 ssl http2;": "",
        "listen [::]:80;": "",
        "server 127.0.0.1:5003": f"server 127.0.0.1:{upstream}",
        "/etc/sluice/tls/fullchain.pem": str(certificate / "server.crt"),
        "/etc/sluice/tls/privkey.pem": str(certificate / "server.key"),
    }.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "sluice.conf").write_text(text)
    user = "user root;" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(MAIN.format(user=user, folder=folder))
    return Proxy(config, https, http_, upstream, certificate / "server.crt")


@pytest.fixture
def application(
    proxy: Proxy, root: Path, environment: dict[str, str], start: Start, until: Until
) -> subprocess.Popen[bytes]:
    """gunicorn with deploy/gunicorn.conf.py, one worker, before a small application."""
    process = start(
        "gunicorn", "-c", root / "deploy/gunicorn.conf.py", "tests.integration.deploy.upstream:app",
        name="gunicorn",
        cwd=root,
        env=environment | {
            "DATA_DIR": str(proxy.config.parent),
            "WEB_BIND": f"127.0.0.1:{proxy.upstream}",
            "WEB_WORKERS": "1",
            "PROMETHEUS_MULTIPROC_DIR": str(proxy.config.parent / "metrics"),
        },
    )  # fmt: skip
    until(lambda: listens(proxy.upstream), "gunicorn listens")
    return process


@pytest.fixture
def nginx(proxy: Proxy, start: Start, until: Until) -> subprocess.Popen[bytes]:
    process = start(
        "nginx", "-c", proxy.config, "-p", proxy.config.parent, "-e", "stderr", name="nginx"
    )
    until(lambda: listens(proxy.https), "nginx listens")
    return process


def listens(port: int) -> bool:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with closing(link):
        try:
            link.connect()
        except OSError:
            return False
        return True


def test_nginx_reads_the_file_without_a_word(proxy: Proxy, environment: dict[str, str]) -> None:
    read = subprocess.run(
        ["nginx", "-t", "-q", "-c", proxy.config, "-p", proxy.config.parent, "-e", "stderr"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    # From 1.25 on nginx would have http2 written in another way, which 1.22 does not know.
    words = [line for line in read.stderr.splitlines() if '"listen ... http2"' not in line]
    assert (words, read.returncode) == ([], 0)


@pytest.mark.usefixtures("application", "nginx")
def test_an_event_arrives_before_the_next_one_is_made(proxy: Proxy) -> None:
    with proxy.connection() as link:
        link.request("GET", "/api/jobs/1/events", headers={"Accept-Encoding": "gzip"})
        stream = link.getresponse()
        assert stream.getheader("Content-Encoding") is None
        assert stream.readline() == b"data: first\n"

        proxy.get("/release")

        assert stream.read().endswith(b"data: second\n\n")


@pytest.mark.usefixtures("application", "nginx")
def test_what_a_caller_claims_about_its_address_is_not_passed_on(proxy: Proxy) -> None:
    seen = proxy.seen(
        "/api/auth/me",
        {
            "X-Forwarded-For": "203.0.113.7",
            "X-Forwarded-Host": "forged.example",
            "X-Forwarded-Proto": "http",
            "X-Forwarded-Prefix": "/forged",
            "X-Forwarded-Ssl": "off",
            "X-Forwarded-Protocol": "http",
            "X-Real-IP": "203.0.113.7",
            "X_Forwarded_For": "203.0.113.7",
            "Forwarded": "for=203.0.113.7",
        },
    )

    assert seen["HTTP_X_FORWARDED_FOR"] == seen["HTTP_X_REAL_IP"] == "127.0.0.1"
    assert seen["HTTP_X_FORWARDED_HOST"] == seen["HTTP_HOST"] == f"127.0.0.1:{proxy.https}"
    assert seen["HTTP_X_FORWARDED_PROTO"] == seen["scheme"] == "https"
    assert not {"HTTP_FORWARDED", "HTTP_X_FORWARDED_PREFIX", "HTTP_X_FORWARDED_SSL"} & set(seen)
    assert not re.search("203.0.113.7|forged", json.dumps(seen))


@pytest.mark.usefixtures("application", "nginx")
def test_an_upload_reaches_the_application_while_it_is_being_sent(
    proxy: Proxy, until: Until
) -> None:
    with proxy.connection() as link:
        link.putrequest("POST", "/upload_file")
        link.putheader("Content-Length", "10")
        link.endheaders(b"first")
        until(lambda: proxy.seen("/begun")["begun"], "the application has the upload's beginning")
        link.send(b"other")

        assert json.loads(link.getresponse().read())["length"] == 10


@pytest.mark.usefixtures("application", "nginx")
def test_answers_carry_the_headers_once(proxy: Proxy) -> None:
    answer = proxy.get("/api/jobs")

    headers = [name.lower() for name, _ in answer.getheaders()]
    for name in ("strict-transport-security", "x-content-type-options", "x-frame-options"):
        assert headers.count(name) == 1
    assert "retry-after" not in headers


@pytest.mark.usefixtures("nginx")
def test_while_the_application_restarts_callers_are_told_when_to_come_back(proxy: Proxy) -> None:
    answer = proxy.get("/api/jobs")

    assert answer.status == 503
    assert answer.getheader("Retry-After") == "5"
    assert answer.getheader("Content-Type") == "application/problem+json"
    problem = json.loads(answer.body)  # type: ignore[attr-defined]
    assert (problem["success"], problem["code"]) == (False, "unavailable")


@pytest.mark.usefixtures("nginx")
def test_what_is_far_too_large_is_refused_at_once(proxy: Proxy) -> None:
    with proxy.connection() as link:
        link.putrequest("POST", "/upload_file")
        link.putheader("Content-Length", str(2 * 1024**3))
        link.endheaders()
        answer = link.getresponse()
        assert (answer.status, json.loads(answer.read())["code"]) == (413, "too_large")


@pytest.mark.usefixtures("nginx")
def test_plain_http_is_sent_on_to_https(proxy: Proxy) -> None:
    link = http.client.HTTPConnection("127.0.0.1", proxy.http, timeout=10)
    with closing(link):
        link.request("GET", "/api/jobs?limit=1", headers={"Host": "sluice.example.org"})
        answer = link.getresponse()
        assert answer.status == 308
        assert answer.getheader("Location") == "https://sluice.example.org/api/jobs?limit=1"


def test_more_connections_than_the_refusal_says_are_refused(deploy: Path) -> None:
    text = (deploy / "nginx/sluice.conf").read_text()

    (limit,) = re.findall(r"limit_conn sluice_address (\d+);", text)
    assert f"More than {limit} connections are open" in text


@pytest.mark.usefixtures("nginx")
def test_gunicorn_ends_within_its_grace(application: subprocess.Popen[bytes], proxy: Proxy) -> None:
    assert proxy.get("/").status == 200

    application.terminate()

    assert application.wait(20) == 0
