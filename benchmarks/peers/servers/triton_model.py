"""The layer as a model of Triton's Python backend; copied to `<model>/1/model.py` of its repository."""

import json
import sys
from pathlib import Path

import triton_python_backend_utils as pb_utils  # Triton's own, beside its Python backend


class TritonPythonModel:
    """Triton's interface: `initialize` once, `execute` for every batch of requests."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the layer from where the model's configuration says."""
        config = json.loads(args["model_config"])
        given = {name: value["string_value"] for name, value in config["parameters"].items()}
        sys.path.append(given["code"])
        from layer import Layer

        self.layer = Layer(Path(given["weights"]), threads=int(given["threads"]))
        self.batched = config["max_batch_size"] > 0  # then every tensor begins with an axis of length 1

    def execute(self, requests: list) -> list:
        """Attend all sequences of a batch in one go."""
        inputs = [pb_utils.get_input_tensor_by_name(one, "embeddings").as_numpy() for one in requests]
        answers = self.layer.attend([x[0] for x in inputs] if self.batched else inputs)
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("z", z[None] if self.batched else z)])
            for z in answers
        ]
