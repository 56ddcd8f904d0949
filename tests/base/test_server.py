"""The servers that the other tests stand on."""

import re

from workerbase.devtools.server import Server

VERSIONS = {"valkey": r"valkey \d", "redis-6.2": r"redis 6\.2\.", "redis-7": r"redis [7-9]\."}


def test_each_kind_of_server_is_what_it_is_called(each_server: Server) -> None:
    assert re.match(VERSIONS[each_server.binary.source], each_server.version)
