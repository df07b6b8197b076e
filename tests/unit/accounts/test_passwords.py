"""Hashing: what it costs, and that it costs the same for everybody."""

from threading import BoundedSemaphore

import pytest
from argon2 import PasswordHasher, Type, extract_parameters
from flask import Flask

from backend.accounts import passwords, services
from backend.accounts.models import User
from backend.db import db, transaction
from backend.errors import Unauthenticated, Unavailable
from tests.unit.accounts.conftest import PASSWORD, Person


class CountingHasher(PasswordHasher):
    """Argon2 as it is, which remembers the hashes that it verified."""

    def __init__(self) -> None:
        super().__init__()
        self.verified: list[str] = []

    def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # noqa: A002 - its name
        self.verified.append(str(hash))
        return super().verify(hash, password)


def test_a_password_is_verified_by_its_hash() -> None:
    hashed = passwords.hash_password("pässwörd 🔑")
    assert hashed.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert passwords.verify(hashed, "pässwörd 🔑")
    assert not passwords.verify(hashed, "passwort")
    assert hashed != passwords.hash_password("pässwörd 🔑")


def test_a_hash_that_cannot_be_read_matches_nothing() -> None:
    assert not passwords.verify("plain", "plain")
    assert not passwords.verify("$argon2id$v=19$broken", "plain")


def test_nobodys_hash_costs_what_a_users_costs() -> None:
    theirs = extract_parameters(passwords.hash_password(PASSWORD))
    assert extract_parameters(passwords.NOBODYS) == theirs
    assert theirs.type is Type.ID
    assert not passwords.verify(None, "")


def test_each_failing_log_in_verifies_one_hash_of_the_same_cost(
    app: Flask, ann: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = CountingHasher()
    monkeypatch.setattr(passwords, "HASHER", counting)
    with app.app_context():
        for email in (ann.email, "nobody@example.com"):
            with pytest.raises(Unauthenticated):
                services.authenticate(db.session(), email, "wrong")
    wrong, unknown = counting.verified
    assert unknown == passwords.NOBODYS
    assert extract_parameters(wrong) == extract_parameters(unknown)


def test_a_hash_of_older_parameters_is_renewed_at_log_in(app: Flask, ann: Person) -> None:
    weak = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    with app.app_context(), transaction() as session:
        session.query(User).update({User.password_hash: weak})
    body = {"email": ann.email, "password": PASSWORD}
    for _ in range(2):
        assert ann.client.post("/api/auth/login", json=body).status_code == 200
    with app.app_context():
        renewed = db.session.get_one(User, 1).password_hash
    assert not passwords.is_outdated(renewed)
    assert passwords.verify(renewed, PASSWORD)


def test_too_many_hashes_at_once_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_slots", BoundedSemaphore(1))
    monkeypatch.setattr(passwords, "PATIENCE_SECONDS", 0)
    with passwords._slot(), pytest.raises(Unavailable):
        passwords.verify(None, PASSWORD)
    assert not passwords.verify(None, PASSWORD)
