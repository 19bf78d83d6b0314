"""The receiver: an association in, durable instances out through ``pipeline.intake``."""
