"""What users of KServe's own client do over gRPC, as in `grpc_clients`: both cannot be in one process.

python grpc_kserve_client.py CASE GRPC HTTP
"""

import asyncio
import sys

import numpy as np
from grpc import RpcError
from kserve import InferenceGRPCClient, InferInput, InferRequest

X = (np.arange(12, dtype=np.float32).reshape(3, 4) - 5) / 4
MODEL = "fake"
KEY = {"authorization": "Bearer secret"}


def kserve_does_the_same_job(url, http):
    async def ask():
        async with InferenceGRPCClient(url) as client:
            metadata = tuple(KEY.items())
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready(MODEL, headers=metadata)
            assert not await client.is_model_ready("none", headers=metadata)
            for raw in (True, False):
                given = InferInput("embeddings", list(X.shape), "FP32")
                given.set_data_from_numpy(X, binary_data=raw)
                request = InferRequest(MODEL, [given], request_id="7", parameters={"layers": "all"})
                response = await client.infer(request, headers=metadata)
                assert (response.id, response.model_name) == ("7", MODEL)
                z = next(output for output in response.outputs if output.name == "z")
                np.testing.assert_array_equal(z.as_numpy(), [2 * X] * 2)
            error = None
            try:
                await client.infer(InferRequest("none", [given]), headers=metadata)
            except RpcError as refused:
                error = refused
            assert error is not None
            assert error.code().name == "NOT_FOUND"

    asyncio.run(ask())


CASES = {case.__name__: case for case in (kserve_does_the_same_job,)}

if __name__ == "__main__":
    CASES[sys.argv[1]](*sys.argv[2:])
