"""/api/documents: keep files that other work refers to by a whole number."""

from typing import Any

from flask import request
from marshmallow import Schema, fields

from backend.accounts.guards import current_user, signed_in
from backend.db import db, transaction
from backend.documents import services
from backend.errors import InvalidInput
from backend.http.api import Blueprint, check_form
from backend.http.idempotency import idempotent
from backend.http.pagination import PageQuery
from backend.storage.antivirus import Received, refuse_infected
from backend.storage.names import checked_name
from backend.storage.sweeping import placing

blueprint = Blueprint("documents", __name__, description="Documents that are kept")


class DocumentSchema(Schema):
    """A kept document."""

    document_id = fields.Integer(attribute="id", required=True)
    name = fields.String(required=True)
    size_bytes = fields.Integer(attribute="file.size_bytes", required=True)
    media_type = fields.String(attribute="file.media_type", required=True)
    sha256 = fields.String(attribute="file.sha256", required=True)
    created_at = fields.DateTime(required=True)


class DocumentEnvelope(Schema):
    """The answer about one document."""

    success = fields.Boolean(required=True)
    document = fields.Nested(DocumentSchema, required=True)


class DocumentListSchema(Schema):
    """A page of documents."""

    success = fields.Boolean(required=True)
    documents = fields.List(fields.Nested(DocumentSchema), required=True)
    next_cursor = fields.String(required=True, allow_none=True)


class DocumentForm(Schema):
    """A file to keep."""

    file = fields.Raw(required=True, metadata={"type": "string", "format": "binary"})


@blueprint.route("/api/documents", methods=["POST"])
@signed_in
@idempotent
@blueprint.arguments(DocumentForm, location="files")
@blueprint.response(201, DocumentEnvelope)
def create(files: dict[str, Any]) -> dict[str, Any]:
    """Keep a file."""
    check_form(request, {"file": False}, {})
    owner_id, upload = current_user().id, files["file"]
    name = checked_name(upload.filename or "", "file")
    spool = upload.stream
    refuse_infected({"file": Received(name, spool)})
    if spool.size_bytes == 0:
        raise InvalidInput(
            f"file: {name} is empty.", code="empty_file", fields={"file": ["It is empty."]}
        )
    with placing(db.session(), owner_id, [spool]), transaction() as session:
        document = services.add(session, owner_id, spool, upload.mimetype, name)
    return {"success": True, "document": document}


@blueprint.route("/api/documents")
@signed_in
@blueprint.arguments(PageQuery, location="query")
@blueprint.response(200, DocumentListSchema)
def index(query: dict[str, Any]) -> dict[str, Any]:
    """List one's documents, the newest first."""
    page = services.page(db.session(), current_user().id, query.get("cursor"), query["limit"])
    return {"success": True, "documents": page.items, "next_cursor": page.next_cursor}


@blueprint.route("/api/documents/<row:document_id>")
@signed_in
@blueprint.response(200, DocumentEnvelope)
def show(document_id: int) -> dict[str, Any]:
    """See one document."""
    document = services.owned(db.session(), current_user().id, document_id)
    return {"success": True, "document": document}


@blueprint.route("/api/documents/<row:document_id>", methods=["DELETE"])
@signed_in
@blueprint.response(204)
def delete(document_id: int) -> None:
    """Remove a document."""
    with transaction() as session:
        services.remove(session, services.owned(session, current_user().id, document_id))
