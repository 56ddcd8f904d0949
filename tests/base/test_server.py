"""The servers that the other tests stand on."""

from workerbase.devtools.server import Server


def test_each_kind_of_server_answers(each_server: Server) -> None:
    assert each_server.version.partition(" ")[0] in ("redis", "valkey")
