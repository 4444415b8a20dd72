"""Every recovery by name."""

from wfbench import recovery, tuning
from wfbench.recovery import Recovery
from wfbench.repair import LeastSquaresRepair, ScaleAndBias

RECOVERIES: dict[str, Recovery] = recovery.RECOVERIES | {
    found.name: found
    for found in (
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
