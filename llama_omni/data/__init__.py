"""InstructS2S construction and reading: sources to Parquet shards."""
