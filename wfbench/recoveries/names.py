"""Every recovery by name."""

from typing import Any

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
