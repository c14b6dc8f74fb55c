"""What is said of a refusal: its type, and the argument, field, file or column that it names; never
the sentence.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def refused(
    *names: str, by: type[BaseException] = ValueError
) -> Iterator[pytest.ExceptionInfo[BaseException]]:
    """The block raises ``by``, and its message names each of ``names``."""
    with pytest.raises(by) as caught:
        yield caught
    missing = [name for name in names if name not in str(caught.value)]
    assert not missing, f"{str(caught.value)!r} does not name {missing}"
