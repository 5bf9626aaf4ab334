"""What this machine gives: its ceilings, and each kernel and whole model as a share of them (`qkv bench`)."""

from qkv.bench.plan import CEILINGS, DTYPES, GROUPS, plan
from qkv.bench.report import Report
from qkv.bench.timing import Case, Machine, Result, measure

__all__ = ["CEILINGS", "DTYPES", "GROUPS", "Case", "Machine", "Report", "Result", "measure", "plan"]
