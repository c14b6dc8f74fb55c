"""Passwords in the URLs of databases: they are shown nowhere, neither in messages nor in files."""

from __future__ import annotations

import re
from urllib.parse import unquote

from recgraph.config import ConfigError

__all__ = ["check_password", "is_masked", "without_password", "without_secrets"]

_MASK = "***"
#: where the URL of a database begins; files have no passwords
_SCHEME = re.compile(r"(?!journal:///|sqlite:///)(?<![\w+.-])(?:[A-Za-z][\w+.-]*://|postgres(?:ql)?(?:\+\w+)?:/?)")
#: servers, each with a port or without, and a path: what stands before the query where there is no password
_SERVERS = re.compile(r"(\[[^]]*\]|[^:/@,]*)(:\d*)?(,(\[[^]]*\]|[^:/@,]*)(:\d*)?)*(/.*)?")
_SECRET = {"password", "sslpassword", "passfile", "oauth_client_secret"}


def without_password(url: str) -> str:
    """A URL, alone or behind an option, as it may be shown. What may be a part of a password is taken for one."""
    return _masked(url)[0]


def is_masked(url: str) -> bool:
    """Whether a URL is as :func:`without_password` shows one that has a password."""
    return f":{_MASK}@" in url or f"={_MASK}" in url


def without_secrets(text: str, url: str) -> str:
    """A text about a URL, such as an error of its database, without the URL's password."""
    found = _masked(url)[1]
    for secret in sorted({*found, *map(unquote, found)} - {"", _MASK}, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", _MASK, text)
    return text


def check_password(url: str) -> None:
    """Refuse a URL whose password is not escaped: a database would take a part of it for its server, and show it.

    Raises:
        ConfigError: names the URL without its password, and the fix.
    """
    begin = _SCHEME.search(url)
    rest = url[begin.end() :] if begin else ""
    end = _end_of_password(rest)
    if end > 0 and not _is_plain(rest, end):
        raise ConfigError(
            f"storage = {without_password(url)!r} has an @ or a / that may be of its password: write each one that is "
            "no mark of the URL as %40 (@), %2F (/), %3A (:) or %3F (?)"
        )


def _masked(url: str) -> tuple[str, list[str]]:
    """A URL without its secrets, and these."""
    begin = _SCHEME.search(url)
    if begin is None:
        return url, []
    rest, secrets = url[begin.end() :], []
    end = _end_of_password(rest)
    name, colon, password = rest[: max(end, 0)].partition(":")
    if colon:
        secrets.append(password)
        rest = f"{name}:{_MASK}{rest[end:]}"
    head, mark, query = rest.partition("?")
    parts, is_secret = [], False
    for part in query.split("&"):
        key, equals, value = part.partition("=")
        # behind a password a part without a name is the rest of it, after an & that was not escaped
        is_secret = unquote(key).strip().lower() in _SECRET if equals else is_secret
        if is_secret:
            secrets.append(value if equals else part)
            part = f"{key}={_MASK}" if equals else _MASK
        parts.append(part)
    return url[: begin.end()] + head + mark + "&".join(parts), secrets


def _end_of_password(rest: str) -> int:
    """Where the @ behind user and password stands in what follows ``://``; -1 where there is none."""
    address = rest.partition("?")[0]
    end = max(address.rfind("@"), rest.partition("/")[0].rfind("@"))
    return rest.rfind("@") if end < 0 and not _SERVERS.fullmatch(address) else end


def _is_plain(rest: str, end: int) -> bool:
    """Whether all who read a URL find the same password in it: one @, and no / before it."""
    return not set("/@") & set(rest[:end])
