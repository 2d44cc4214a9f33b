"""The worker process: its loop, what it prints, and how it tells of exceptions."""
