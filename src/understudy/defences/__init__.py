"""One defence per file: what is left of an answer on its way out. The gateway and the audit apply the same object."""

CATALOG = {
    "bins": "understudy.defences.bins:Bins",
    "label-only": "understudy.defences.label_only:LabelOnly",
    "noise": "understudy.defences.noise:Noise",
    "round": "understudy.defences.rounding:Round",
    "top-k": "understudy.defences.top_k:TopK",
}
