"""/api/compress: bulk compression of PDFs."""

from typing import Any
from uuid import UUID

from flask import Response, request, url_for
from werkzeug.http import quote_etag

from backend.accounts.guards import current_user, signed_in
from backend.compression import services
from backend.compression.schemas import (
    BatchStatusSchema,
    BulkAcceptedSchema,
    BulkForm,
    BulkRequest,
    EstimateForm,
    EstimateSchema,
    FileEntry,
    FormSettings,
)
from backend.compression.sources import (
    Source,
    discarded,
    from_entries,
    from_entry,
    from_upload,
    from_uploads,
    spools_of,
)
from backend.db import db, transaction
from backend.errors import InvalidInput
from backend.http.api import Blueprint, check_form
from backend.http.bodies import takes_files
from backend.http.headers import ACCEPTED, PART, TAGGED, byte_range, if_none_match, if_range
from backend.http.idempotency import idempotent
from backend.jobs import artifacts, streams
from backend.jobs.models import Job
from backend.jobs.routes import accepted
from backend.jobs.schemas import WaitQuery, links_of
from backend.storage.sweeping import placing

FORM_FIELDS = tuple(FormSettings().fields)

blueprint = Blueprint("compression", __name__, description="Bulk compression of PDFs")


@blueprint.route("/api/compress/bulk", methods=["POST"])
@signed_in
@takes_files
@idempotent
@blueprint.doc(
    requestBody={
        "required": True,
        "content": {
            "application/json": {"schema": BulkRequest},
            "multipart/form-data": {"schema": BulkForm},
        },
    }
)
@blueprint.response(202, BulkAcceptedSchema, headers=ACCEPTED)
def create() -> Response:
    """Compress PDFs, sent as JSON or as multipart/form-data."""
    owner_id = current_user().id
    sources, settings = _sent()
    with (
        discarded(sources),
        placing(db.session(), owner_id, spools_of(sources)),
        transaction() as session,
    ):
        job = services.submit_received(session, owner_id, sources, settings)
        return accepted(session, job, file_count=len(sources))


def _sent() -> tuple[list[Source], dict[str, Any]]:
    """The files and settings of the request, whichever way they came."""
    parser = blueprint.ARGUMENTS_PARSER
    if request.mimetype != "multipart/form-data":
        body = parser.parse(BulkRequest, request, location="json")
        return from_entries(body["files"]), body
    check_form(request, {"files": True}, {name: name == "password" for name in FORM_FIELDS})
    settings = parser.parse(FormSettings, request, location="form")
    uploads = request.files.getlist("files")
    if not uploads:
        raise InvalidInput(
            'files: none were sent; send each PDF in a form field "files".',
            fields={"files": ["At least one is needed."]},
        )
    return from_uploads(uploads, settings["password"]), settings


@blueprint.route("/api/compress/estimate", methods=["POST"])
@signed_in
@takes_files
@blueprint.doc(
    requestBody={
        "required": True,
        "content": {
            "application/json": {"schema": FileEntry},
            "multipart/form-data": {"schema": EstimateForm},
        },
    }
)
@blueprint.response(200, EstimateSchema)
def estimate() -> dict[str, Any]:
    """See how small a PDF will get at each level, within two seconds, and why not smaller."""
    source = _sent_alone()
    with discarded([source]):
        return services.estimate(db.session(), current_user().id, source)


def _sent_alone() -> Source:
    parser = blueprint.ARGUMENTS_PARSER
    if request.mimetype != "multipart/form-data":
        return from_entry(parser.parse(FileEntry, request, location="json"))
    check_form(request, {"file": False}, {"password": False})
    form = parser.parse(EstimateForm(only=["password"]), request, location="form")
    upload = parser.parse(EstimateForm(only=["file"]), request, location="files")["file"]
    return from_upload(upload, form["password"])


@blueprint.route("/api/compress/jobs/<uuid:job_id>")
@signed_in
@if_none_match
@blueprint.arguments(WaitQuery, location="query")
@blueprint.response(200, BatchStatusSchema, headers=TAGGED)
@blueprint.alt_response(304, description="Not changed since the ETag in If-None-Match")
def show(query: dict[str, Any], job_id: UUID) -> Any:
    """See how a batch is doing, file by file; with `wait`, hold the answer until it changes."""
    owner_id = current_user().id
    job = services.owned_batch(db.session(), owner_id, job_id)
    if query["wait"]:
        job = streams.wait_for_change(owner_id, job, query["wait"], streams.tag_of_batch)
    tag = streams.tag_of_batch(job)
    etag = {"ETag": quote_etag(tag, weak=True)}
    if streams.is_seen(tag):
        return Response(status=304, headers=etag)
    return _status(job), 200, etag


@blueprint.route("/api/compress/download/<uuid:job_id>")
@signed_in
@byte_range
@if_range
@if_none_match
@blueprint.response(200, content_type="application/zip", schema={}, headers=TAGGED)
@blueprint.alt_response(200, content_type="application/pdf", schema={}, description="The file")
@blueprint.alt_response(206, description="The range asked for", headers=PART)
@blueprint.alt_response(304, description="Not changed since the ETag in If-None-Match")
def download(job_id: UUID) -> Response:
    """Download the ZIP, or the PDF itself when there was one."""
    return artifacts.download(services.owned_batch(db.session(), current_user().id, job_id))


def _status(job: Job) -> dict[str, Any]:
    ready = job.state == "succeeded"
    return {
        **services.status_of(db.session(), job),
        "download_url": url_for("compression.download", job_id=job.id) if ready else None,
        "links": {**links_of(job), "self": url_for("compression.show", job_id=job.id)},
    }
