"""Pure statistics: traffic buckets and summaries."""
