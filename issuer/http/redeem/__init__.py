"""POST /api/v1/redemptions, and the predecessor's POST /api/v1/code/redeem."""
