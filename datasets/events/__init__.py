"""Event cameras: recordings of every format as one structured array, and what single-step networks take from them."""
