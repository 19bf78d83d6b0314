"""The HTTP side: files, predict, health, metrics and the status page, read from the job table."""
