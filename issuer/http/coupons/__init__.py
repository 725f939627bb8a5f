"""Routes of coupons and their consumption."""
