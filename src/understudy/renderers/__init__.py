"""report.json -> something a person reads. A renderer computes nothing: every figure it shows is in the report."""
