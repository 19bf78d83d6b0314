"""The token is read once, from a file that must hold one."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from osteon.config.settings import HttpSettings
from osteon.errors import ConfigError
from osteon.http.auth import is_loopback, read_token


def test_the_first_line_is_the_token(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("  s3cret \nanother\n")
    assert read_token(HttpSettings(token_file=file)) == "s3cret"


@pytest.mark.parametrize("content", [b"", b"\n", b"   \nsecond", b"\xff\xfe"])
def test_a_file_without_a_token(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"http\.token_file"):
        read_token(HttpSettings(token_file=file))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(HttpSettings(token_file=tmp_path / "none"))


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", 0), ("0.0.0.0", 1), ("10.0.0.5", 1)])
def test_an_open_address_without_a_token_is_told(host: str, warned: int) -> None:
    with capture_logs() as events:
        assert read_token(HttpSettings(host=host)) is None
    assert len([e for e in events if e["event"] == "http without token"]) == warned


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", True), ("::1", True), ("127.8.0.1", True), ("0.0.0.0", False), ("ct1", False)],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
