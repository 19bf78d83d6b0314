"""Tests of osteon.config."""
