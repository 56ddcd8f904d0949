"""A DSN names host or socket, database, login, TLS and Sentinel; anything else is refused."""

import pytest
from workerbase.broker.dsn import RedisDsn


@pytest.mark.parametrize(
    ("dsn", "text"),
    [
        ("redis://", "localhost:6379/0"),
        ("redis://h", "h:6379/0"),
        ("redis://h:1/2", "h:1/2"),
        ("redis://h/2?db=3", "h:6379/3"),
        ("redis://[::1]:7/2", "::1:7/2"),
        ("REDIS://h/", "h:6379/0"),
        ("rediss://u:p@h/1", "h:6379/1 (TLS)"),
        ("unix:///run/r%20s?db=4", "/run/r s/4"),
        ("redis+sentinel://a,b:7/1?master=m", "sentinel m at a:26379,b:7/1"),
        ("rediss+sentinel://a", "sentinel mymaster at a:26379/0 (TLS)"),
    ],
)
def test_a_dsn_as_text_names_the_address_without_the_login(dsn: str, text: str) -> None:
    assert str(RedisDsn.parse(dsn)) == text


@pytest.mark.parametrize(
    "dsn",
    [
        "", "localhost:6379", "http://h", "unix+sentinel://h", "redis://h/x", "redis://h/-1",
        "redis://h/1/2", "redis://h?db=-1", "redis://h:70000", "redis://a,b/0", "unix://",
        "unix://h/path", "redis://[h", "redis+sentinels://h",
    ],
)  # fmt: skip
def test_a_malformed_dsn_is_refused_with_the_valid_forms(dsn: str) -> None:
    with pytest.raises(ValueError, match=r"redis\[s\]://user:password@host:port/db"):
        RedisDsn.parse(dsn)


@pytest.mark.parametrize(
    ("dsn", "message"),
    [
        ("redis://h?timeout=3", r"'timeout' is not one of \['db'\]"),
        ("redis://h?master=m", "'master'"),
        ("redis://h?ssl_keyfile=k", "'ssl_keyfile'"),
        ("rediss://h?ssl_keyfil=k", "'ssl_keyfil' is not one of .*'ssl_keyfile'"),
    ],
)
def test_an_option_without_effect_is_refused(dsn: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RedisDsn.parse(dsn)


@pytest.mark.parametrize(
    ("dsn", "same"),
    [
        ("valkey://h:1/2", "redis://h:1/2"),
        ("valkeys://h:1/2", "rediss://h:1/2"),
        ("valkey+sentinel://h/0?master=m", "redis+sentinel://h/0?master=m"),
        ("valkeys+sentinel://h/0?master=m", "rediss+sentinel://h/0?master=m"),
    ],
)
def test_valkey_has_addresses_of_its_own_name(dsn: str, same: str) -> None:
    assert RedisDsn.parse(dsn) == RedisDsn.parse(same)
