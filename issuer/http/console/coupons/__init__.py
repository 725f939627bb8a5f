"""The screens of coupons: list, one coupon, create, change."""
