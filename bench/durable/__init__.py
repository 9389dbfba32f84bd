"""Time to durable, restore and what they cost, beside s5cmd and boto3 on one S3 server; see docs/BENCHMARKS.md."""
