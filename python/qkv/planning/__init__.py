"""What a model would take on this machine, from its config.json alone (`qkv plan`)."""

from qkv.planning.planner import plan
from qkv.planning.result import KVPlan, Plan, Speed, WeightPlan

__all__ = ["KVPlan", "Plan", "Speed", "WeightPlan", "plan"]
