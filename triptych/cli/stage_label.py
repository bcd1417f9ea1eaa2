"""What a stage is called where its tasks have to be told apart."""


def stage_label(stage: str, task: str) -> str:
    """For example "vae images": the VAE works twice when a request has input images."""
    return f"{stage} images" if task == "encode_images" else stage
