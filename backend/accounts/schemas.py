"""The JSON of accounts: what is sent, and what is answered."""

from typing import Any

from marshmallow import Schema, ValidationError, fields, validate

from backend.accounts import passwords
from backend.accounts.models import MAX_EMAIL_LENGTH, MAX_NAME_LENGTH, UserRole, normalise_email

MAX_TOKEN_LENGTH = 4096


class EmailAddress(fields.Email):
    """An email address, loaded in the form under which its account is kept."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        text = super()._deserialize(value, attr, data, **kwargs)
        # Before anything looks at it closely: a megabyte is not worth a pattern's time.
        if len(text) > MAX_EMAIL_LENGTH:
            raise ValidationError(f"Longer than {MAX_EMAIL_LENGTH} characters.")
        return normalise_email(text)


class LoginSchema(Schema):
    """The body of a log-in."""

    email = EmailAddress(required=True, validate=validate.Length(max=MAX_EMAIL_LENGTH))
    # A short password is not badly formed here, it is wrong.
    password = fields.String(required=True, validate=validate.Length(max=passwords.MAX_LENGTH))


class RegisterSchema(Schema):
    """The body of a registration. A password's length is the only rule for it."""

    email = EmailAddress(required=True, validate=validate.Length(max=MAX_EMAIL_LENGTH))
    password = fields.String(
        required=True, validate=validate.Length(passwords.MIN_LENGTH, passwords.MAX_LENGTH)
    )
    name = fields.String(load_default="", validate=validate.Length(max=MAX_NAME_LENGTH))


class RefreshSchema(Schema):
    """The body of a refresh, for clients that do not send the token in the header."""

    refresh_token = fields.String(
        load_default=None,
        validate=validate.Length(1, MAX_TOKEN_LENGTH),
        metadata={"description": "The refresh token, unless it is the bearer token."},
    )


class UserSchema(Schema):
    """A user, as the user may see it."""

    id = fields.Integer(required=True)
    email = fields.String(required=True)
    name = fields.String(required=True)
    role = fields.Enum(UserRole, by_value=True, required=True)
    plan = fields.String(required=True)
    created_at = fields.DateTime(required=True)


class SuccessSchema(Schema):
    """It is done."""

    success = fields.Boolean(dump_default=True, required=True, metadata={"const": True})


class MeSchema(SuccessSchema):
    """The caller."""

    user = fields.Nested(UserSchema, required=True)


class TokenPairSchema(MeSchema):
    """A log-in's tokens: a short one for requests, and a long one for the next pair."""

    access_token = fields.String(required=True)
    refresh_token = fields.String(required=True)
    token_type = fields.String(dump_default="Bearer", required=True, metadata={"const": "Bearer"})
    expires_in = fields.Integer(
        required=True, metadata={"description": "Seconds that the access token is good for."}
    )
