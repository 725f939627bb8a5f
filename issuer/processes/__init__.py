"""Starting and supervising API processes."""
