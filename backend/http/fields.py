"""Fields that take less on trust than marshmallow's own."""

import re
from typing import Any

from marshmallow import ValidationError, fields

WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}", re.ASCII)


class WholeNumber(fields.Integer):
    """A whole number of a form or a query, in plain digits: Python's int() takes "1_0" and "٣"."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> int:
        if not isinstance(value, str) or not WHOLE_NUMBER.fullmatch(value):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, *args, **kwargs)


class BoundedList(fields.List[Any]):
    """A list that is counted before its entries are looked at: those may be a million."""

    def __init__(self, inner: Any, *, most: int, **options: Any) -> None:
        super().__init__(inner, metadata={"maxItems": most}, **options)
        self.most = most

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> list[Any]:
        if isinstance(value, list) and len(value) > self.most:
            raise ValidationError(f"Has {len(value)} entries; at most {self.most} are accepted.")
        return super()._deserialize(value, *args, **kwargs)
