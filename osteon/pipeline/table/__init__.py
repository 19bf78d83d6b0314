"""The job table: the only home of SQL. One function an event; every UPDATE names what it leaves."""
