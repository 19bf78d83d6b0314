"""The parts of a multipart/form-data body, one after another, as its blocks come.

Blocks enter, the beginning, the bytes and the end of each part leave through three callbacks;
``upload.py`` calls it.
"""

from collections.abc import Callable
from http import HTTPStatus

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException

PARTS_MAX = 50_000


class Form:
    """A form that is being read.

    Parameters
    ----------
    boundary : bytes
        The boundary of its Content-Type (RFC 7578 section 4.1).
    begin, write, end : callable
        Called at the beginning of a part, with its bytes, and at its end with its name.

    Attributes
    ----------
    complete : bool
        Whether the last boundary has come.
    """

    def __init__(
        self,
        boundary: bytes,
        *,
        begin: Callable[[], None],
        write: Callable[[memoryview], None],
        end: Callable[[str], None],
    ) -> None:
        self.complete = False
        self._write, self._begin_file, self._end_file = write, begin, end
        self._parts = 0
        self._field = self._value = b""
        self._name = ""
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._add_field,
                    "on_header_value": self._add_value,
                    "on_header_end": self._end_header,
                    "on_part_data": self._add_data,
                    "on_part_end": self._end,
                    "on_end": self._end_form,
                },
            )
        except FormParserError as error:
            raise _malformed(error) from error

    def feed(self, block: bytes) -> None:
        """Take the next bytes.

        Raises
        ------
        HTTPException
            400: it is no form; 413: it has too many parts.
        """
        try:
            self._parser.write(block)
        except FormParserError as error:
            raise _malformed(error) from error

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > PARTS_MAX:
            detail = f"the form has more than {PARTS_MAX} parts: split it"
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
        self._name = f"part {self._parts}"
        self._begin_file()

    def _add_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._field.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            name = options.get(b"filename") or options.get(b"name") or b""
            self._name = name.decode("utf-8", "replace") or self._name
        self._field = self._value = b""

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        self._write(memoryview(data)[start:end])

    def _end(self) -> None:
        self._end_file(self._name)

    def _end_form(self) -> None:
        self.complete = True


def _malformed(error: FormParserError) -> HTTPException:
    return HTTPException(HTTPStatus.BAD_REQUEST, f"the form is malformed: {error}")
