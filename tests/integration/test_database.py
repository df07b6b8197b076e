"""What the pool of connections does when its server ends them."""

import pytest
from sqlalchemy import create_engine, event, make_url, text

from backend.db import AWAY, engine_options
from tests.integration.stack import until
from tests.postgresql import Server

pytestmark = [pytest.mark.integration, pytest.mark.needs("initdb", "pg_ctl")]

END = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
LEFT = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"


def test_a_connection_that_the_server_has_ended_is_made_anew_before_it_is_used(
    postgresql: Server,
) -> None:
    url = make_url(postgresql.fresh_database()).set(drivername="postgresql+psycopg")
    engine = create_engine(url, **engine_options(url))
    try:
        with engine.connect() as first, engine.connect() as second:
            ended = {each.scalar(text("SELECT pg_backend_pid()")) for each in (first, second)}
        with postgresql.connect(autocommit=True) as administrator:
            administrator.execute(END, (url.database,))
            until(
                lambda: administrator.execute(LEFT, (url.database,)).fetchone() == (0,),
                "the server has ended them",
            )

        with engine.connect() as first, engine.connect() as second:
            fresh = {each.scalar(text("SELECT pg_backend_pid()")) for each in (first, second)}
        assert not ended & fresh
    finally:
        engine.dispose()


def test_a_connection_that_the_server_ends_as_it_is_made_is_a_database_that_is_away(
    postgresql: Server,
) -> None:
    url = make_url(postgresql.fresh_database()).set(drivername="postgresql+psycopg")
    engine = create_engine(url, **engine_options(url))
    with postgresql.connect(autocommit=True) as administrator:

        @event.listens_for(engine, "connect")
        def end(*_: object) -> None:
            administrator.execute(END, (url.database,))
            until(
                lambda: administrator.execute(LEFT, (url.database,)).fetchone() == (0,),
                "the server has ended it",
            )

        with pytest.raises(AWAY), engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    engine.dispose()
