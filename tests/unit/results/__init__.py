"""Unit tests of the results room."""
