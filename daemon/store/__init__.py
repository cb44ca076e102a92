"""What a run keeps on disk: the log, votes, encoded updates, snapshots. Durable before it is believed."""
