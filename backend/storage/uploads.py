"""Requests whose files stream to a spool as they are parsed, and leave nothing behind."""

from typing import IO, Any, cast

from flask import Flask, Request, request

from backend.config import Settings
from backend.storage.services import open_spool
from backend.storage.spool import Spool


class UploadRequest(Request):
    """A request that keeps no file in memory: each part of a form goes to a spool."""

    spools: list[Spool]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.spools = []

    def new_spool(self) -> Spool:
        """A spool that is gone when the request is over."""
        spool = open_spool()
        self.spools.append(spool)
        return spool

    def _get_file_stream(self, *_: Any, **__: Any) -> IO[bytes]:
        return cast("IO[bytes]", self.new_spool())


def upload_request() -> UploadRequest:
    """The current request."""
    return cast("UploadRequest", request)


def receive_uploads(app: Flask, settings: Settings) -> None:
    """Make the application's requests stream their files."""
    app.request_class = UploadRequest

    def discard(_error: BaseException | None) -> None:
        for spool in upload_request().spools:
            spool.close()

    app.teardown_request(discard)
