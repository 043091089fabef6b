"""Networks cut short, for tests of what surrounds them: tracing takes most of their time."""

SHUFFLEDET_UNITS = (2, 1, 1)  # of each group; one of each kind is among them
