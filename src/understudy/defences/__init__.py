"""One defence per file: what is left of an answer on its way out. The gateway and the audit apply the same object."""

CATALOG = {
    "label-only": "understudy.defences.label_only:LabelOnly",
    "round": "understudy.defences.rounding:Round",
    "top-k": "understudy.defences.top_k:TopK",
}
