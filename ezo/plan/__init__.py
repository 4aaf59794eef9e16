"""What a step of each method will need, before it runs: the most BP that fits a budget of memory.

A step is played on tensors that have a shape and no numbers (torch's fake tensors), and its bytes
are counted as a real step's are (`ezo.livebytes`). Nothing is computed, so that a large model takes
little longer than a small one, and no memory.
"""

from ezo.plan.budget import parse_bytes
from ezo.plan.prediction import Plan, Prediction, plan
from ezo.plan.simulation import Simulation, simulate

__all__ = ["Plan", "Prediction", "Simulation", "parse_bytes", "plan", "simulate"]
