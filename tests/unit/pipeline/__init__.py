"""Unit tests of the pipeline room."""
