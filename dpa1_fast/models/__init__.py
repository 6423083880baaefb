"""The models that come with the package; see examples/train_demo_model.py for how they were made."""
