"""FreeSeg-Diff, stage by stage: functions from arrays to arrays; `fsdlib.pipeline.segment` composes them."""
