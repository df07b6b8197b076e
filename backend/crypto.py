"""Seal and open stored secrets: a document's password, a provider's token."""

import base64

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from flask import current_app

from backend.config import Settings
from backend.errors import AppError


class Unsealable(AppError):
    """A stored secret was sealed with another SECRET_KEY."""

    code = "unsealable"


def seal(secret: str) -> str:
    """Encrypt and authenticate a text under the application's key (Fernet, AES-128-CBC + HMAC)."""
    return _fernet().encrypt(secret.encode()).decode()


def unseal(sealed: str) -> str:
    """Return the text; raise Unsealable if it was sealed with another key."""
    try:
        return _fernet().decrypt(sealed.encode()).decode()
    except InvalidToken:
        raise Unsealable("A stored secret cannot be opened: SECRET_KEY has changed.") from None


def _fernet() -> Fernet:
    settings: Settings = current_app.config["SLUICE"]
    # A key of its own, so that a leak of one use of SECRET_KEY does not open the other.
    derive = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"sluice stored secrets")
    key = derive.derive(settings.secret_key.get_secret_value().encode())
    return Fernet(base64.urlsafe_b64encode(key))
