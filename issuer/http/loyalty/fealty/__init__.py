"""The routes of a predecessor, whose clients need no change: FealTY, github.com/dangeroustech/fealty."""
