"""The certificate of a reproduction: a ladder from the machine to the published figure, which says where a rung breaks.

`make reproduce MODELS=sd14 VOC=... COCO=...` climbs it and writes reports/reproduction.md and .json anew after every rung.

1. preflight: the machine, its arithmetic, the hub, every tensor of the weights, every file of the datasets
2. class vectors: the diffusion model's text encoder against recorded vectors
3. captions: against the recorded ones
4. clusters: the diffusion model's features against recorded cluster maps
5. label maps: CLIP, assignment and refinement, from the recorded captions and clusters, against recorded label maps
6. sample: the first images of the first dataset, and what the rest will take
7. a dataset as a whole, beside the published figure

What is held to what is data (`SUBJECTS`). For sd14 the record is what the method's authors recorded with the real models
(data/released.json); for the mini models it is what an earlier version of themselves gave (`--record`).

A rung that passed with the same models, code, record and pictures is not climbed again, but for the first, which looks
at the machine at hand; evaluations go on where they were.
"""
