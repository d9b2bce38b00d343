"""JSON as bytes, of texts that others have written.

Headers that are no UTF-8 and JSON's own escapes (`"\\ud800"`) leave halves of surrogate pairs in a text,
which no encoding takes. They become U+FFFD, as in Go's encoding/json.
"""

from __future__ import annotations

import json
import re
from typing import Any

_HALF = re.compile("[\ud800-\udfff]")


def encoded(value: Any, **options: Any) -> bytes:
    """`value` in UTF-8; `options` as json.dumps has them."""
    text = json.dumps(value, ensure_ascii=False, **options)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _HALF.sub("\ufffd", text).encode()
