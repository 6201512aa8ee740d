"""Scores of single queries, one per file: large is suspicious. `watch` makes one rank per account of them."""

CATALOG = {
    "cadence": "understudy.detectors.cadence:Cadence",
    "constant-pair": "understudy.detectors.constant_pair:ConstantPair",
    "fluency": "understudy.detectors.fluency:Fluency",
    "grid": "understudy.detectors.grid:Grid",
    "line-depth": "understudy.detectors.line_depth:LineDepth",
    "margin": "understudy.detectors.margin:Margin",
    "near-duplicate": "understudy.detectors.near_duplicate:NearDuplicate",
    "novelty": "understudy.detectors.novelty:Novelty",
    "one-at-a-time": "understudy.detectors.one_at_a_time:OneAtATime",
    "probe": "understudy.detectors.probe:Probe",
    "round-the-clock": "understudy.detectors.round_the_clock:RoundTheClock",
    "single-word": "understudy.detectors.single_word:SingleWord",
    "structure": "understudy.detectors.structure:Structure",
    "sweep-count": "understudy.detectors.sweep_count:SweepCount",
    "template-entropy": "understudy.detectors.template_entropy:TemplateEntropy",
    "unknown-words": "understudy.detectors.unknown_words:UnknownWords",
    "volume": "understudy.detectors.volume:Volume",
    "word-edit": "understudy.detectors.word_edit:WordEdit",
    "word-order": "understudy.detectors.word_order:WordOrder",
}
