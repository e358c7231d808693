"""Cost and course of a run, from its configuration and its data, before it is trained."""

from vplface.plan.run_plan import Operations, Plan, Trained, plan
from vplface.plan.teacher import TeacherPlan
from vplface.plan.validations import MeasuredSet, ValidationPlan
from vplface.training.first_loss import expected_first_loss

__all__ = [
    "MeasuredSet",
    "Operations",
    "Plan",
    "TeacherPlan",
    "Trained",
    "ValidationPlan",
    "expected_first_loss",
    "plan",
]
