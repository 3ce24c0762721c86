"""Reports: plain values in, a page or a table out."""
