"""How a substitute is trained, one learner per file. A learner is fitted on bought answers and returns a Target."""

CATALOG = {
    "boosting": "understudy.learners.boosting:Boosting",
    "logistic": "understudy.learners.logistic:Logistic",
    "mlp": "understudy.learners.mlp:Mlp",
    "text-logistic": "understudy.learners.text_logistic:TextLogistic",
}
