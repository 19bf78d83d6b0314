"""Where stages run: engine, slots, worker processes and the stages themselves."""
