"""Let Hypothesis find the same examples each time, and not look for smaller ones."""

from hypothesis import Phase, settings

settings.register_profile(
    "mutants", phases=[Phase.explicit, Phase.generate], derandomize=True, database=None
)
settings.load_profile("mutants")
