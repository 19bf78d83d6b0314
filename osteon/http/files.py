"""The files API: images in, and every stored input and result out by its path.

A request enters; intake makes its images durable, or the table says where a file is. No part of a
URL ever becomes a path on the disk.
"""

import os
from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import anyio.to_thread
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field
from python_multipart.multipart import parse_options_header
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse

from osteon.errors import NotFoundError, OsteonError
from osteon.http.body import Body
from osteon.http.node import Node, OfNode, address_of
from osteon.http.problem import problem_of
from osteon.http.ranges import UnsatisfiableError, parse_range
from osteon.http.upload import Accepted, Limits, Upload, too_long
from osteon.pipeline.table import stored
from osteon.pipeline.table.reception import UPLOAD_AE_TITLE, Origin

router = APIRouter(prefix="/api/v1/files", tags=["Files"])
BLOCK_BYTES = 2**18
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {
    "schema": {
        "type": "object",
        "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
    }
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/dicom": _BINARY,
            "application/zip": _BINARY,
            "application/octet-stream": _BINARY,
            "multipart/form-data": _FORM,
        },
    }
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The form is malformed, or the body ended too early."},
    408: {"description": "The client sent nothing for a minute."},
    413: {"description": "The upload is too long, or a zip inflates to too much."},
    415: {"description": "Another multipart type than form-data."},
    422: {"description": "Nothing of it is an instance."},
    507: {"description": "The disk reserve or the backlog limit is reached: try again later."},
}
_BYTES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/dicom": _BINARY}, "description": "The whole file."},
    206: {"content": {"application/dicom": _BINARY}, "description": "The range asked for."},
    304: {"description": "The caller has this version."},
    404: {"description": "No file has this path."},
    416: {"description": "The range starts behind the file's end."},
}


class FileView(BaseModel):
    """A stored input or result."""

    path: str
    size: int
    media_type: str
    digest: str = Field(
        description="Of an input: BLAKE3 of its data set as received. Of a result: SHA-256."
    )
    created: str


class FileList(BaseModel):
    """One page of files."""

    files: list[FileView]
    next: str | None = Field(description="Value of `after` for the next page.")


@router.post(
    "",
    status_code=202,
    response_model=Accepted,
    response_description="All of it is durable, but for what was skipped.",
    openapi_extra=_BODY,
    responses=_REFUSALS,
)
async def upload(request: Request, node: OfNode) -> Accepted | Response:
    """Store images: one DICOM file, a zip of them, or a form with any number of both.

    The answer comes when all of them are durable. Where it is a problem instead, its members
    `files`, `ids` and `skipped` say what had been stored by then.
    """
    body, receiving = Body(request), _open_upload(request, node)
    try:
        _refuse_length(request, node.settings.http.upload_bytes_max)
        return await _receive(node, body, receiving)
    except (OsteonError, HTTPException) as error:
        await body.drain()
        return problem_of(request, error, **receiving.accepted.model_dump())
    finally:
        receiving.close()


@router.get("", response_description="One page.")
def list_files(
    node: OfNode,
    prefix: Annotated[str, Query(max_length=300, description="What the path starts with.")] = "",
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    after: Annotated[str, Query(max_length=300, description="Only paths behind it.")] = "",
) -> FileList:
    """List stored inputs and results by path."""
    found = stored.files(node.table, prefix, limit=limit, after=after)
    page = [FileView.model_validate(file) for file in found]
    return FileList(files=page, next=page[-1].path if len(page) == limit else None)


@router.head("/{path:path}", include_in_schema=False)
@router.get("/{path:path}", response_class=Response, responses=_BYTES)
def read_file(path: str, request: Request, node: OfNode) -> Response:
    """Return a file's bytes, or a range of them (RFC 9110 section 14).

    A range that the file does not have is answered by 416.
    """
    place, known = stored.file(node.table, path)
    etag = f'"{known["digest"]}"'
    headers = {"ETag": etag, "Accept-Ranges": "bytes", "Cache-Control": "private, no-cache"}
    if _has_version(request.headers.get("if-none-match"), etag):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    disposition = "inline" if known["media_type"].startswith("image/") else "attachment"
    # The path is one that the table knows, so its last part is a UID or a name of ours.
    headers["Content-Disposition"] = f'{disposition}; filename="{Path(path).name}"'
    file, size = _open(place, path)
    if request.method == "HEAD":
        file.close()
        headers["Content-Length"] = str(size)
        return Response(headers=headers, media_type=known["media_type"])
    whole = request.headers.get("if-range", etag) != etag
    try:
        wanted = parse_range(None if whole else request.headers.get("range"), size)
    except UnsatisfiableError as error:
        file.close()
        status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
        raise HTTPException(status, str(error), {"Content-Range": f"bytes */{size}"}) from error
    start, stop = wanted or (0, size)
    headers["Content-Length"] = str(stop - start)
    if wanted is not None:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    status = HTTPStatus.OK if wanted is None else HTTPStatus.PARTIAL_CONTENT
    return StreamingResponse(
        _blocks(file, start, stop), status, headers, media_type=known["media_type"]
    )


def _open_upload(request: Request, node: Node) -> Upload:
    settings = node.settings
    return Upload(
        node.intake,
        Origin(UPLOAD_AE_TITLE, settings.scp.ae_title, address_of(request)),
        Limits(settings.http.upload_bytes_max, settings.scp.instance_bytes_max),
        node.table.data_dir,
        _boundary_of(request),
    )


async def _receive(node: Node, body: Body, receiving: Upload) -> Accepted:
    run = partial(anyio.to_thread.run_sync, limiter=node.upload_threads)
    async for block in body.blocks():
        await run(receiving.feed, block)
    return await run(receiving.finish)


def _refuse_length(request: Request, limit: int) -> None:
    """Refuse an upload that announces itself as too long, before it is sent."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:18]) > limit:
        raise too_long(limit)


def _boundary_of(request: Request) -> bytes | None:
    """Return the boundary of a form, or None where the body is one file."""
    media_type, options = parse_options_header(request.headers.get("content-type", ""))
    if not media_type.startswith(b"multipart/"):
        return None
    boundary = options.get(b"boundary", b"")
    if media_type != b"multipart/form-data" or not boundary:
        detail = "send one file as the body, or a multipart/form-data with its boundary"
        raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail)
    return boundary


def _has_version(if_none_match: str | None, etag: str) -> bool:
    """Whether one of the entity tags is this one (RFC 9110 section 13.1.2, weak comparison)."""
    tags = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
    return etag in tags or tags == ["*"]


def _open(place: Path, path: str) -> tuple[BinaryIO, int]:
    try:
        file = place.open("rb")
    except FileNotFoundError as error:
        raise NotFoundError(
            f"{path} is on record but its file is gone: see `osteon verify`"
        ) from error
    return file, os.fstat(file.fileno()).st_size


def _blocks(file: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
    with file:
        file.seek(start)
        while start < stop and (block := file.read(min(BLOCK_BYTES, stop - start))):
            start += len(block)
            yield block
