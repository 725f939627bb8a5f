"""Pages of a till: staff add and take points, with a scanner or by typing. They need no script."""
