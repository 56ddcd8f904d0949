"""Tells whether an address has TLS where its server has none, or the reverse.

Neither side can say so: a server without TLS waits for the rest of what it takes for a command,
and one with TLS hangs up.
"""

import asyncio
import ssl
from contextlib import suppress

from .dsn import RedisDsn

TIMEOUT_S = 1.0


async def mismatch(dsn: RedisDsn) -> str:
    """Return what is wrong with the scheme of an address; empty if nothing, or if unknown."""
    if "unix_socket_path" in dsn.options or dsn.master is not None:
        return ""
    host, port = dsn.hosts[0]
    with suppress(OSError, asyncio.IncompleteReadError):
        async with asyncio.timeout(TIMEOUT_S):
            if dsn.options.get("ssl"):
                if await _answers_in_the_clear(host, port):
                    return "the port has no TLS: the address must begin with redis://"
            elif await _shakes_hands(host, port):
                return "the port has TLS: the address must begin with rediss://"
    return ""


async def _answers_in_the_clear(host: str, port: int) -> bool:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(b"PING\r\n")
        return await reader.readexactly(1) in (b"+", b"-")  # PONG, or that a login is required
    finally:
        writer.transport.abort()


async def _shakes_hands(host: str, port: int) -> bool:
    context = ssl.create_default_context()
    # Nothing is sent: only whether there is TLS at all is asked.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        _, writer = await asyncio.open_connection(host, port, ssl=context)
    except ssl.SSLError as exc:
        # A server that wants a certificate of ours refuses after it has spoken TLS.
        return "ALERT" in str(exc).upper()
    writer.transport.abort()
    return True
