"""The node process: the scheduler (pure), and the shell that carries its decisions out."""
