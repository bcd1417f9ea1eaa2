"""python -m benchmarks.loaded_stage STAGE [at-work]: loads a stage of the demo model, and ends."""

import gc
import sys
from pathlib import Path
from typing import Final

MODULE: Final = "benchmarks.loaded_stage"
MODEL: Final = Path(__file__).parents[1] / "models" / "demo"


def main() -> None:
    """Imports and loads."""
    stage, *how = sys.argv[1:]
    if how:
        # As if services.torch_setup.lasting_import did nothing.
        gc.disable = gc.freeze = lambda: None
    from services.torch_setup.runtime import set_up_torch
    from triptych.domain.element_type import ElementType

    set_up_torch(1)
    from services.loaded_models import loading

    load = getattr(loading, f"load_{stage}")
    load(MODEL, None, ElementType.FLOAT32, "cpu")


if __name__ == "__main__":
    main()
