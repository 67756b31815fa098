"""The observations that are scaled: read from files, counted, connected."""
