"""One published attack per file: a frozen dataclass whose `run` yields better and better substitutes.

An attack sees a metered, defended target, a pool and a generator. It never counts for itself, never sees the
evaluation set, and reaches learners and other attacks by name through the registry.
"""

CATALOG = {
    "additive-steps": "understudy.attacks.additive_steps:AdditiveSteps",
    "attribution-regression": "understudy.attacks.attribution_regression:AttributionRegression",
    "auto": "understudy.attacks.auto:Auto",
    "boundary-nullspace": "understudy.attacks.boundary_nullspace:BoundaryNullspace",
    "box-search": "understudy.attacks.box_search:BoxSearch",
    "counterfactual": "understudy.attacks.counterfactual:Counterfactual",
    "counterfactual-training": "understudy.attacks.counterfactual_training:CounterfactualTraining",
    "critical-points": "understudy.attacks.critical_points:CriticalPoints",
    "critical-points-deep": "understudy.attacks.critical_points_deep:CriticalPointsDeep",
    "equation-solving": "understudy.attacks.equation_solving:EquationSolving",
    "gradient-solving": "understudy.attacks.gradient_solving:GradientSolving",
    "hessian-diagonalisation": "understudy.attacks.hessian_diagonalisation:HessianDiagonalisation",
    "path-finding": "understudy.attacks.path_finding:PathFinding",
    "retraining": "understudy.attacks.retraining:Retraining",
    "stationarity": "understudy.attacks.stationarity:Stationarity",
    "tree-labels": "understudy.attacks.tree_labels:TreeLabels",
}
