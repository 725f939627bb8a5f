"""Charts of series, for the screens that show a batch, a coupon or the installation."""
