"""What KServe and users of its clients do with a model folder and a server.

    python kserve_clients.py fetch SOURCE FOLDER
    python kserve_clients.py ask HOST:PORT MODEL

Runs in an environment of its own, which has those packages, unmodified, and nothing of Heed. `ask` prints the
vectors that each client got, as JSON.
"""

import asyncio
import json
import sys

import numpy as np

TEXTS = ("the bank of the river", "a loan")


def fetch(source, folder):
    """Do what KServe's storage initializer does before a server starts."""
    from kserve_storage import Storage

    Storage.download_files([source], [folder])


def ask(address, model):
    found = {
        "kserve": asyncio.run(by_kserve(f"http://{address}", model)),
        "triton": by_triton(address, model),
    }
    print(json.dumps(found))  # noqa: T201


async def by_kserve(url, model):
    from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
    from kserve.protocol.infer_type import RequestedOutput

    async with InferenceRESTClient(RESTConfig(protocol="v2", retries=1)) as client:
        assert await client.is_server_live(url)
        assert await client.is_server_ready(url)
        assert await client.is_model_ready(url, model)
        given = InferInput("text", [len(TEXTS)], "BYTES")
        given.set_data_from_numpy(np.array(TEXTS, dtype=object), binary_data=True)
        wanted = [RequestedOutput("pooled", {"binary_data": True})]
        request = InferRequest(model, [given], request_outputs=wanted)
        response = await client.infer(url, request, model_name=model)
        assert response.model_name == model
        return response.outputs[0].as_numpy().tolist()


def by_triton(address, model):
    import tritonclient.http as triton

    client = triton.InferenceServerClient(address)
    assert client.is_model_ready(model)
    given = triton.InferInput("text", [len(TEXTS)], "BYTES")
    given.set_data_from_numpy(np.array(TEXTS, dtype=object), binary_data=True)
    wanted = triton.InferRequestedOutput("pooled", binary_data=True)
    return client.infer(model, [given], outputs=[wanted]).as_numpy("pooled").tolist()


if __name__ == "__main__":
    {"fetch": fetch, "ask": ask}[sys.argv[1]](*sys.argv[2:])
