"""How close two targets are, one metric per file. Fidelity is not accuracy, and neither is equivalence."""

CATALOG = {
    "accuracy": "understudy.metrics.accuracy:Accuracy",
    "fidelity": "understudy.metrics.fidelity:Fidelity",
    "importance-agreement": "understudy.metrics.importance_agreement:ImportanceAgreement",
    "max-total-variation": "understudy.metrics.total_variation:MaxTotalVariation",
    "parameter-error": "understudy.metrics.parameter_error:ParameterError",
    "regression-error": "understudy.metrics.regression_error:RegressionError",
    "total-variation": "understudy.metrics.total_variation:TotalVariation",
}
