"""Routes of campaigns: REST, Connect, page, events."""
