"""Tests of osteon.pipeline.table."""
