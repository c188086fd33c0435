"""The settings of small runs on the device."""


def settings(shapes, output, device, **change):
    return {
        "train": str(shapes / "train.txt"), "output": str(output), "backbone": "test_resnet",
        "pretrained": False, "image_size": 32, "embedding_dim": 16, "batch_size": 8,
        "recipe": "component",
        "device": device.type, "threads": 2, "log_every": 1, "schedule": "constant", "lr": 0.01,
        "warmup_steps": 0, "color_jitter": 0.2, "max_steps": 6, "report": False, **change,
    }  # fmt: skip
