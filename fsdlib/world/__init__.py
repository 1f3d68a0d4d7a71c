"""The embedded world: generated scenes, the small models trained on them, and what those reach. No number from here says anything about photographs."""
