"""Where rounds live on disk: the journal (SQLite), the spool of updates, the models, and the lock that keeps others out."""
