"""Every recovery by name."""

from typing import Any

from wfbench.errors import unknown
from wfbench.recoveries import descent as tuning
from wfbench.recoveries.base import BatchNormReestimation, NoRecovery, Recovery
from wfbench.recoveries.correction import ScaleAndBias
from wfbench.recoveries.repair import LeastSquaresRepair

RECOVERIES: dict[str, Recovery[Any]] = {
    found.name: found
    for found in (
        NoRecovery(),
        BatchNormReestimation(),
        ScaleAndBias(),
        LeastSquaresRepair(),
        tuning.BriefDistillation(),
        tuning.FineTuning(),
        tuning.FineTuningLong(),
        tuning.LogitDistillation(),
        tuning.LogitDistillationLong(),
        tuning.FeatureDistillation(),
        tuning.FeatureDistillationLong(),
    )
}


def recovery_of(name: str) -> Recovery[Any]:
    """The recovery of that name, or an error that names those like it."""
    if name not in RECOVERIES:
        raise unknown("recovery", name, RECOVERIES)
    return RECOVERIES[name]
