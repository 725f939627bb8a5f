"""Recovery of a Redis server after a restart, a failover or a loss, and the commands around it."""
