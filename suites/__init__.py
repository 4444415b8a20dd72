"""The benchmark's own suites, a marker each."""
