"""The smallest project around the base, for the tests of its processes."""
