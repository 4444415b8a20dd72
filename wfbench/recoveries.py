"""Every recovery by name."""

from typing import Any

from wfbench import tuning
from wfbench.recovery import BatchNormReestimation, NoRecovery, Recovery
from wfbench.repair import LeastSquaresRepair, ScaleAndBias

RECOVERIES: dict[str, Recovery[Any]] = {
    found.name: found
    for found in (
        NoRecovery(),
        BatchNormReestimation(),
        ScaleAndBias(),
        LeastSquaresRepair(),
        tuning.FineTuning(),
        tuning.FineTuningLong(),
        tuning.LogitDistillation(),
        tuning.LogitDistillationLong(),
        tuning.FeatureDistillation(),
        tuning.FeatureDistillationLong(),
    )
}
