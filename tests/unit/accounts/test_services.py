"""What the services do that no client sees."""

from datetime import timedelta
from uuid import uuid4

from flask import Flask
from sqlalchemy import func, select

from backend.accounts import services
from backend.accounts.models import AuthSession, EndReason, User
from backend.clock import utc_now
from backend.db import db, transaction
from tests.unit.accounts.conftest import Person

DAY = timedelta(days=1)


def test_a_refresh_prolongs_the_log_in(app: Flask, ann: Person) -> None:
    with app.app_context(), transaction() as session:
        family = session.scalars(select(AuthSession)).one()
        before = family.expires_at
        rotated = services.rotate(session, family.id, family.refresh_jti, 90 * DAY)
        assert rotated is family
        assert family.expires_at - before > 59 * DAY


def test_an_expired_log_in_cannot_be_refreshed(app: Flask, ann: Person) -> None:
    with app.app_context(), transaction() as session:
        family = session.scalars(select(AuthSession)).one()
        family.expires_at = utc_now()
        session.flush()
        assert services.rotate(session, family.id, family.refresh_jti, DAY) is None


def test_an_unknown_log_in_cannot_be_refreshed(app: Flask) -> None:
    with app.app_context(), transaction() as session:
        assert services.rotate(session, uuid4(), uuid4(), DAY) is None


def test_the_first_reason_for_an_end_stands(app: Flask, ann: Person) -> None:
    with app.app_context(), transaction() as session:
        family = session.scalars(select(AuthSession)).one()
        services.end_session(session, family.id, EndReason.LOGGED_OUT)
        services.end_all_sessions(session, family.user_id, EndReason.DISABLED)
        session.refresh(family)
        assert family.revoked_reason == "logged_out"
        assert family.revoked_at is not None


def test_log_ins_past_their_time_are_forgotten(app: Flask, ann: Person) -> None:
    with app.app_context(), transaction() as session:
        user = session.scalars(select(User)).one()
        services.start_session(session, user, -DAY)
        assert services.forget_expired_sessions(session) == 1
        assert session.scalar(select(func.count()).select_from(AuthSession)) == 1
    assert ann.get_me().status_code == 200


def test_a_users_log_ins_go_with_the_user_and_the_id_is_not_used_again(
    app: Flask, ann: Person
) -> None:
    with app.app_context():
        with transaction() as session:
            session.query(User).delete()
        assert db.session.scalars(select(AuthSession)).all() == []
        with transaction() as session:
            newcomer = services.register(session, email="bob@example.com", password_hash="")
        assert newcomer.id == 2
    assert ann.get_me().json["code"] == "token_revoked"
