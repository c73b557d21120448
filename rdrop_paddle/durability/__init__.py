"""What keeps a run from losing its work: whole files, checkpoints, signals, ranks that die or hang, restarts."""
