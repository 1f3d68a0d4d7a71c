"""How long and on how much the embedded models are trained."""

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from fsdlib.world.scenes import STYLES, Style

# their places enter the seeds: a new one goes last
PARTS = ("clip", "captioner", "autoencoder", "unet", "vision", "selfsupervised")


class Settings(BaseModel):
    """How the embedded models are trained: `Settings()` in full, `Settings.tiny()` for a look at falling losses."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0
    device: str = "cpu"
    styles: tuple[Style, ...] = STYLES
    scenes: PositiveInt = 30_000
    close_ups: PositiveInt = 15_000  # windows around objects of the first of those scenes
    held_out: PositiveInt = 256  # scenes after those, for the validation curves
    side: PositiveInt = 64  # pixels, of all the models' inputs
    clip_steps: PositiveInt = 2_500
    vision_steps: PositiveInt = 5_500
    captioner_steps: PositiveInt = 2_500
    autoencoder_steps: PositiveInt = 1_500
    # The rate stays until the last `unet_fall` of these steps, so a run may be ended at any time: set unet_steps to
    # ceil(done / (1 - unet_fall)) and resume. The steps before the fall are the same as without the change.
    unet_steps: PositiveInt = 24_000
    unet_fall: float = Field(0.1, gt=0, lt=1)
    unet_warm_up: PositiveInt = 200  # steps
    unet_every: PositiveInt = 200  # steps from one validation and checkpoint of the UNet to the next
    unet_monitor_every: PositiveInt = 1_000  # steps, a multiple of unet_every, from one measurement of it to the next
    unet_probes: PositiveInt = 60  # train scenes that no part learns from, on which its features are measured
    selfsupervised_steps: PositiveInt = 380
    selfsupervised_scenes: PositiveInt = 8_000  # drawn for it alone, so that it waits for no others
    clip_batch: PositiveInt = 64
    vision_batch: PositiveInt = 128
    captioner_batch: PositiveInt = 32
    autoencoder_batch: PositiveInt = 48
    unet_batch: PositiveInt = 32
    selfsupervised_batch: PositiveInt = 64
    validate_every: PositiveInt = 100
    checkpoint_every: PositiveInt = 100
    workers: PositiveInt = 2  # processes that draw scenes

    @classmethod
    def tiny(cls, **changes) -> "Settings":
        few = dict(
            scenes=192,
            close_ups=96,
            held_out=64,
            clip_steps=40,
            vision_steps=40,
            captioner_steps=40,
            autoencoder_steps=40,
            unet_steps=24,
            selfsupervised_steps=40,
            selfsupervised_scenes=96,
            unet_probes=2,
        )
        small = dict(
            clip_batch=16,
            vision_batch=32,
            captioner_batch=8,
            autoencoder_batch=8,
            unet_batch=8,
            selfsupervised_batch=16,
            validate_every=8,
            checkpoint_every=8,
            unet_warm_up=8,
            unet_every=8,
            unet_monitor_every=24,
            workers=1,
        )
        return cls(**(few | small | changes))

    def shorter(self, share: float) -> "Settings":
        """The same with a share of the scenes and steps of every part; raises ValueError if none would be left."""
        fewer = {
            name: round(share * getattr(self, name))
            for name in ("scenes", "close_ups", *(f"{part}_steps" for part in PARTS))
        }
        return Settings(**self.model_dump() | fewer)
