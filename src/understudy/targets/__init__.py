"""Things that can be asked, one per file: the owner's model, and what substitutes are made of.

Here: how to reach a model and how its raw output becomes `Answers`. Not here: counting, keeping, defending.
"""

CATALOG = {
    "additive-steps": "understudy.targets.additive_steps:AdditiveStepsTarget",
    "callable": "understudy.targets.callable:CallableTarget",
    "http": "understudy.targets.http:HttpTarget",
    "kernel": "understudy.targets.kernel:KernelTarget",
    "lightgbm": "understudy.targets.lightgbm:LightgbmTarget",
    "linear": "understudy.targets.linear:LinearTarget",
    "network": "understudy.targets.network:NetworkTarget",
    "sklearn": "understudy.targets.sklearn:SklearnTarget",
    "tree": "understudy.targets.tree:TreeTarget",
    "xgboost": "understudy.targets.xgboost:XgboostTarget",
}
