"""The template, as pytest-copier renders it."""

import pytest


@pytest.fixture(scope="session")
def copier_template_paths() -> list[str]:
    """Name what belongs to the template: anything else would only be copied and committed."""
    return ["copier.yml", "template"]
