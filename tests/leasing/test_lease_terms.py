"""The periods of a lease: several renewals may fail, and recovery fits into one lease."""

from workerbase.leasing.terms import IDLE_SHARE, RENEW_SHARE, SCAN_SHARE


def test_the_periods_leave_room_for_failures() -> None:
    assert 4 * RENEW_SHARE <= IDLE_SHARE, "three renewals may fail"
    assert RENEW_SHARE + IDLE_SHARE + SCAN_SHARE < 1, "recovery within one lease"
