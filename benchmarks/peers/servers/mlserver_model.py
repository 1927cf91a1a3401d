"""The layer as a custom runtime of MLServer: FP32 arrays by its NumPy codec, or bytes by its base64 codec."""

from pathlib import Path

import numpy as np
from layer import Layer
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class LayerModel(MLModel):
    """MLServer's interface: `load` once, `predict` for every request."""

    async def load(self) -> bool:
        """Load the layer from where the model's settings say."""
        extra = self.settings.parameters.extra
        self.layer = Layer(Path(self.settings.parameters.uri), threads=extra["threads"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Attend one sequence."""
        (given,) = payload.inputs
        if given.datatype == "BYTES":
            (content,) = Base64Codec.decode_input(given)
            x = np.frombuffer(content, dtype="<f4").reshape(-1, self.layer.d_model)
            (z,) = self.layer.attend([x])
            # REST replies are JSON: text, not bytes.
            output = Base64Codec.encode_output("z", [z.tobytes()], use_bytes=False)
        else:
            (z,) = self.layer.attend([NumpyCodec.decode_input(given)])
            output = NumpyCodec.encode_output("z", z)
        return InferenceResponse(model_name=self.name, outputs=[output])
