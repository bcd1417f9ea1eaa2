from diffusers import QwenImagePipeline

from tests.conformance.references import Reference
from tests.conformance.references.qwen_image_demo import REFERENCE as DEMO

REFERENCE = Reference(
    model="qwen-image",
    pipeline=QwenImagePipeline,
    cases=DEMO.cases,
    draw=DEMO.draw,
)
