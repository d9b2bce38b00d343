"""The file of users that is made at the start, and its password, which is told once."""

from __future__ import annotations

import io
import re
from pathlib import Path

import bcrypt
import pytest
import structlog

from mirror import app, appaccess
from mirror import log as logging
from mirror.config import Auth, Config
from mirror.configauth import Htpasswd


@pytest.mark.parametrize("formatter", ["text", "json"])
def test_the_password_of_a_new_file_stands_in_the_log_once(tmp_path: Path, formatter: str) -> None:
    """Readable: no redaction takes it away."""
    auth = Auth(htpasswd=Htpasswd.model_validate({"realm": "r", "path": f"{tmp_path}/users"}))
    stream, before = io.StringIO(), structlog.get_config()
    try:
        logging.configure("info", formatter, stream=stream)
        appaccess.create_users(auth)
        appaccess.create_users(auth)
        form = logging.form()
        assert form is not None
        form.lines.flush(5.0)
    finally:
        structlog.configure(**before)
    (found,) = re.findall(r"login: docker ([\w-]{43})", stream.getvalue())
    name, hashed = (tmp_path / "users").read_bytes().strip().split(b":")
    assert name == b"docker"
    assert bcrypt.checkpw(found.encode(), hashed)


def test_a_file_that_cannot_be_made_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    users = Htpasswd.model_validate({"realm": "r", "path": f"{tmp_path}/file/users"})
    config = Config(auth=Auth(htpasswd=users))
    with pytest.raises(app.StartError, match=r"\Aauth\.htpasswd\.path: cannot make .*/file/users: "):
        app._create_users(config)
