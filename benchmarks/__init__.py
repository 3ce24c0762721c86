"""The scripts behind every figure in the documents, installed as `maqd_snn.benchmarks`; see `table.BENCHES`."""
