"""What callers say about a compression, and what they are told of it."""

from typing import Any

from flask import current_app
from marshmallow import Schema, ValidationError, fields, pre_load, validate, validates_schema

from backend.compression.engine import DEFAULT_QUALITY, Level, SignedPolicy
from backend.config import Settings
from backend.errors import TooLarge
from backend.http.bodies import LongText
from backend.http.fields import WholeNumber
from backend.jobs import FileId
from backend.jobs.schemas import AcceptedSchema, LinksSchema

LEVELS = [level.value for level in Level]
SIGNED_POLICIES = [policy.value for policy in SignedPolicy]
LONGEST_PASSWORD = 512


class BatchSettings(Schema):
    """How every file of a batch is compressed.

    With `target_bytes` each file gets the gentlest level that makes it no larger. Signed files are
    left as they are, or copied with a signature that is not valid any more.
    """

    compression_level = fields.String(
        load_default=Level.MEDIUM.value, validate=validate.OneOf(LEVELS)
    )
    image_quality = fields.Integer(
        load_default=DEFAULT_QUALITY, strict=True, validate=validate.Range(1, 100)
    )
    target_bytes = fields.Integer(
        load_default=None, strict=True, allow_none=True, validate=validate.Range(1, 2**63 - 1)
    )
    signed = fields.String(
        load_default=SignedPolicy.SKIP.value, validate=validate.OneOf(SIGNED_POLICIES)
    )
    compress_attachments = fields.Boolean(load_default=False, truthy={True}, falsy={False})


class FormSettings(BatchSettings):
    """The same as form fields, where every value is text."""

    image_quality = WholeNumber(load_default=DEFAULT_QUALITY, validate=validate.Range(1, 100))
    target_bytes = WholeNumber(load_default=None, validate=validate.Range(1, 2**63 - 1))
    compress_attachments = fields.Boolean(load_default=False)
    password = fields.List(
        fields.String(validate=validate.Length(max=LONGEST_PASSWORD)), load_default=list
    )


class Base64Content(fields.Field[LongText]):
    """A file's content in base64, not decoded yet."""

    def __init__(self, **options: Any) -> None:
        metadata = {"type": "string", "contentEncoding": "base64"}
        super().__init__(metadata=metadata, **options)

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> LongText:
        if isinstance(value, LongText):
            return value
        if isinstance(value, str) and value:
            return LongText.of(value)
        raise ValidationError("Give the file's content in base64.")


class FileEntry(Schema):
    """A file of a batch: its content in base64 under a name, or a stored document's id."""

    name = fields.String()
    content = Base64Content()
    document_id = fields.Integer(strict=True, validate=validate.Range(1, 2**63 - 1))
    password = fields.String(validate=validate.Length(max=LONGEST_PASSWORD), load_default=None)

    @validates_schema
    def _one_of_both(self, data: dict[str, Any], **_: object) -> None:
        if "document_id" in data:
            if "content" in data or "name" in data:
                raise ValidationError(
                    "Give either a document_id, or a name and a content.", "document_id"
                )
        elif "content" not in data or not data.get("name"):
            raise ValidationError(
                "Give a name and a content in base64, or a document_id.", "content"
            )


class BulkRequest(BatchSettings):
    """A batch as JSON."""

    files = fields.List(fields.Nested(FileEntry), required=True, validate=validate.Length(1))

    @pre_load
    def _count_first(self, data: Any, **_: object) -> Any:
        """To look at a million entries takes longer than to say that they are too many."""
        if isinstance(data, dict) and isinstance(data.get("files"), list):
            refuse_too_many(len(data["files"]))
        return data


def refuse_too_many(count: int) -> None:
    """Raise TooLarge for more files than a batch may have."""
    settings: Settings = current_app.config["SLUICE"]
    if count > settings.max_batch_files:
        raise TooLarge(
            f"{count} files were sent; a batch has at most {settings.max_batch_files}.",
            code="too_many_files",
        )


class BulkForm(FormSettings):
    """A batch as multipart/form-data. `password` stands once for all files, or once for each."""

    files = fields.List(
        fields.Raw(metadata={"type": "string", "format": "binary"}),
        required=True,
        validate=validate.Length(1),
    )


class EstimateForm(Schema):
    """A file to look at, as multipart/form-data."""

    file = fields.Raw(required=True, metadata={"type": "string", "format": "binary"})
    password = fields.String(validate=validate.Length(max=LONGEST_PASSWORD), load_default=None)


class ExpectedSchema(Schema):
    """How small a level will make a file."""

    level = fields.String(required=True, validate=validate.OneOf(LEVELS))
    bytes = fields.Integer(required=True)


class EstimateSchema(Schema):
    """How small a file will get at each level.

    `expected` is from a sample, of so many of the file's bytes as `sampled` says, from 0 to 1; it
    is empty when the file could not be looked at in time. `reasons` say why it gets hardly smaller,
    `problems` what is broken in it.
    """

    success = fields.Boolean(required=True)
    name = fields.String(required=True)
    original_bytes = fields.Integer(required=True)
    pages = fields.Integer(required=True)
    signed = fields.Boolean(required=True)
    encrypted = fields.Boolean(required=True)
    sizes = fields.Nested("SizesSchema", required=True, allow_none=True)
    expected = fields.List(fields.Nested(ExpectedSchema), required=True)
    sampled = fields.Float(required=True)
    reasons = fields.List(fields.String(), required=True)
    problems = fields.List(fields.String(), required=True)


class BulkAcceptedSchema(AcceptedSchema):
    """The answer to an accepted batch."""

    file_count = fields.Integer(required=True)


class SizesSchema(Schema):
    """What a file's bytes are of."""

    images = fields.Integer(required=True)
    fonts = fields.Integer(required=True)
    content = fields.Integer(required=True)
    attachments = fields.Integer(required=True)
    structure = fields.Integer(required=True)


class ContentsSchema(Schema):
    """What a file has: numbers are counts."""

    sizes = fields.Nested(SizesSchema, required=True)
    pages = fields.Integer(required=True)
    links = fields.Integer(required=True)
    annotations = fields.Integer(required=True)
    outline = fields.Integer(required=True)
    form_fields = fields.Integer(required=True)
    xfa = fields.Boolean(required=True)
    tags = fields.Integer(required=True)
    language = fields.String(required=True, allow_none=True)
    layers = fields.Integer(required=True)
    page_labels = fields.Boolean(required=True)
    destinations = fields.Integer(required=True)
    attachments = fields.Integer(required=True)
    signed = fields.Boolean(required=True)
    encrypted = fields.Boolean(required=True)
    permissions = fields.List(fields.String(), required=True)
    pdfa = fields.String(required=True, allow_none=True)
    pdfua = fields.String(required=True, allow_none=True)
    metadata = fields.Integer(required=True)


class PageSimilaritySchema(Schema):
    """How alike a page looks before and after, from 0 to 1."""

    page = fields.Integer(required=True)
    ssim = fields.Float(required=True)


class SimilaritySchema(Schema):
    """How alike the pages look before and after: the structural similarity of each."""

    pages_compared = fields.Integer(required=True)
    mean = fields.Float(required=True, allow_none=True)
    worst = fields.Float(required=True, allow_none=True)
    text_equal = fields.Boolean(required=True)
    least_alike = fields.List(fields.Nested(PageSimilaritySchema), required=True)


class ReceiptSchema(Schema):
    """What was done to a file."""

    pages = fields.Integer(required=True)
    changed = fields.Boolean(required=True)
    signed = fields.Boolean(required=True)
    encrypted = fields.Boolean(required=True)
    images = fields.Integer(required=True)
    images_recoded = fields.Integer(required=True)
    note = fields.String(required=True, allow_none=True)
    original_bytes = fields.Integer(required=True)
    compressed_bytes = fields.Integer(required=True)
    level = fields.String(required=True, validate=validate.OneOf(LEVELS))
    before = fields.Nested(ContentsSchema, required=True)
    after = fields.Nested(ContentsSchema, required=True)
    similarity = fields.Nested(SimilaritySchema, required=True, allow_none=True)
    done = fields.List(fields.String(), required=True)
    left = fields.List(fields.String(), required=True)


class FileStatusSchema(Schema):
    """How one file of a batch is doing."""

    name = fields.String(required=True)
    status = fields.String(
        required=True,
        validate=validate.OneOf(["pending", "processing", "completed", "failed", "cancelled"]),
    )
    percent = fields.Integer(required=True)
    original_bytes = fields.Integer(required=True)
    compressed_bytes = fields.Integer(required=True, allow_none=True)
    error = fields.String(required=True, allow_none=True)
    receipt = fields.Nested(ReceiptSchema, required=True, allow_none=True)
    job_id = fields.UUID(required=True)


class BatchStatusSchema(Schema):
    """How a batch is doing, file by file."""

    success = fields.Boolean(required=True)
    job_id = fields.UUID(required=True)
    status = fields.String(required=True)
    progress = fields.Integer(required=True)
    completed_count = fields.Integer(required=True)
    file_count = fields.Integer(required=True)
    original_bytes = fields.Integer(required=True)
    compressed_bytes = fields.Integer(required=True)
    error = fields.String(required=True, allow_none=True)
    error_message = fields.String(required=True, allow_none=True)
    download_url = fields.String(required=True, allow_none=True)
    files = fields.List(fields.Nested(FileStatusSchema), required=True)
    links = fields.Nested(LinksSchema, required=True)


class CompressFileParams(Schema):
    """The parameters of `compression.compress_file`."""

    file_id = FileId(required=True)
    name = fields.String(required=True)
    original_bytes = fields.Integer(required=True)
    level = fields.Enum(Level, by_value=True, required=True)
    image_quality = fields.Integer(required=True)
    target_bytes = fields.Integer(required=True, allow_none=True)
    sealed_password = fields.String(required=True, allow_none=True)
    signed = fields.Enum(SignedPolicy, by_value=True, required=True)
    compress_attachments = fields.Boolean(required=True)


class CompressBulkParams(Schema):
    """The parameters of `compression.compress_bulk`, a batch's closing step."""

    file_count = fields.Integer(required=True)
