"""The log-in of the first user: made once, kept in `login.json`, tried at every start."""

import json
import secrets
import subprocess
from dataclasses import asdict, dataclass

import httpx

from sluice_stack import ROOT, StackError
from sluice_stack.database import FLASK
from sluice_stack.environment import Surroundings
from sluice_stack.folder import DataFolder

EMAIL = "admin@localhost"


@dataclass(frozen=True)
class Login:
    """Who may log in, and where."""

    url: str
    email: str
    password: str


def keep(folder: DataFolder, url: str) -> Login:
    """The log-in of the data folder with the address of today; a new one on the first start."""
    before = {"email": EMAIL, "password": secrets.token_urlsafe(15)}
    if folder.login.exists():
        try:
            found = json.loads(folder.login.read_text(encoding="utf-8"))
            before = {name: str(found[name]) for name in before}
        except (ValueError, KeyError, TypeError):
            raise StackError(f"{folder.login} is damaged; remove it to get a new log-in.") from None
    login = Login(url, **before)
    part = folder.login.with_suffix(".part")
    part.unlink(missing_ok=True)
    part.touch(mode=0o600)
    part.write_text(json.dumps(asdict(login), indent=2) + "\n", encoding="utf-8")
    part.replace(folder.login)
    return login


def sign_in(client: httpx.Client, login: Login, surroundings: Surroundings) -> str | None:
    """Log the client in, making the user if need be; return what is wrong with the log-in."""
    credentials = {"email": login.email, "password": login.password}
    answer = client.post("/api/auth/login", json=credentials)
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        refusal = _make_user(login, surroundings)
        if refusal:
            return refusal
        answer = client.post("/api/auth/login", json=credentials)
    if answer.status_code != httpx.codes.OK:
        return f"the log-in was refused with status {answer.status_code}"
    client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
    return None


def sign_out(client: httpx.Client) -> None:
    """End the session that `sign_in` has begun."""
    if "Authorization" in client.headers:
        client.post("/api/auth/logout")
        del client.headers["Authorization"]


def _make_user(login: Login, surroundings: Surroundings) -> str | None:
    run = subprocess.run(
        [*FLASK, "users", "create", "--admin", "--email", login.email, "--password-stdin"],
        cwd=ROOT,
        env=surroundings.variables,
        input=login.password + "\n",
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode == 0:
        return None
    said = run.stderr.strip().splitlines() or [f"exit code {run.returncode}"]
    return said[-1].removeprefix("Error: ")
