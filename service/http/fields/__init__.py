"""Fields that say something about heads and positions, resolved against a model and a sequence."""
