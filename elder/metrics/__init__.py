"""How well an edit holds, how far it reaches and what it costs.

Homes: `evaluator.Evaluator`, `report.Report`, `evaluate.evaluate`, `retention.retention_summary`;
docs/metrics.md defines every figure.
"""
