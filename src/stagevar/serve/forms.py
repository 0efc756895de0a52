"""A form with pictures, as OpenAI's clients send it: text fields to a body, files to bytes."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from stagevar.errors import OptionError, RequestError
from stagevar.serve.wire import EditBody

MOST_FIELDS = 64
"""Fields and files of a form."""

FILE = {"type": "string", "format": "binary"}
BODY = EditBody.model_json_schema()
FORM = {
    "content": {
        "multipart/form-data": {
            "schema": BODY | {"properties": {"image": FILE, "mask": FILE, **BODY["properties"]}, "required": ["image"]}
        }
    },
    "required": True,
}
"""The form in the description of the interface."""


SEVERAL = frozenset(name for name, field in BODY["properties"].items() if "array" in str(field))
"""Fields that may hold several values: as fields of one name, of a name with [], or with commas."""


def _listed(name: str, value: Any) -> Any:
    """A value, or those that commas part."""
    return value.split(",") if name in SEVERAL and isinstance(value, str) and "," in value else value


async def read_form(request: Request) -> tuple[EditBody, bytes, bytes | None]:
    """The fields of a form, its picture, and its mask if it has one.

    Raises:
        RequestError: the body is no form.
        OptionError: no picture, or several.
        RequestValidationError: fields that ``EditBody`` does not have, or values that it does not take.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise RequestError("the body must be a form, sent as Content-Type: multipart/form-data")
    try:
        form = await request.form(max_files=MOST_FIELDS, max_fields=MOST_FIELDS)
    except HTTPException as error:
        raise RequestError(f"the body is no form: {error.detail}") from None
    fields: dict[str, Any] = {}
    files: dict[str, list[bytes]] = {"image": [], "mask": []}
    for key in form:
        name, values = key.removesuffix("[]"), form.getlist(key)
        if name in files:
            files[name] += [await value.read() for value in values if isinstance(value, UploadFile)]
        else:
            fields[name] = values if key != name or len(values) > 1 else _listed(name, values[0])
    await form.close()
    for name, least in (("image", 1), ("mask", 0)):
        if not least <= len(files[name]) <= 1:
            raise OptionError(f"{name}: {len(files[name])} files; send one picture as file {name}")
    try:
        body = EditBody.model_validate(fields)
    except ValidationError as error:
        wrong = [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
        raise RequestValidationError(wrong) from None
    return body, files["image"][0], files["mask"][0] if files["mask"] else None
