"""The engine on several hosts: Dask, mutual TLS, and what travels."""
