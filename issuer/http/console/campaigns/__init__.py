"""The screens of campaigns: list, one campaign, create, change."""
