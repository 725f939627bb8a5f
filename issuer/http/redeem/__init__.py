"""POST /api/v1/code/redeem."""
