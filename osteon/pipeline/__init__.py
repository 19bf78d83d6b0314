"""The route from a durable instance to a result: table, throttler, observer, engine, stages."""
