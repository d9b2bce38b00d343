"""What import-linter cannot say: it knows no parts of external packages."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent / "mirror"


def imported(path: Path) -> set[str]:
    """Dotted names of all that a module imports, `from a import b` as `a` and `a.b`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_only_the_server_and_the_composition_root_serve_http() -> None:
    serving = {path.relative_to(ROOT) for path in ROOT.rglob("*.py") if "aiohttp.web" in imported(path)}
    assert serving
    assert {path.parts[0] for path in serving} == {"server", "app.py", "applisten.py"}


def test_a_rooms_init_is_a_docstring_and_nothing_else() -> None:
    rooms = list(ROOT.glob("*/__init__.py"))
    assert len(rooms) >= 6
    for path in rooms:
        (only,) = ast.parse(path.read_text()).body
        assert isinstance(only, ast.Expr), path
