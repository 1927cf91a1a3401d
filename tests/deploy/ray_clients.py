"""What users of other people's clients do, against Ray's proxy and against one server: the same, to the bit.

    python ray_clients.py URL_OF_RAY URL_OF_ONE CASE

Runs in an environment of its own, which has those clients, unmodified, and nothing of Heed.
"""

import sys

import numpy as np

MODEL = "demo-attention"
TEXTS = ["the cat sat on the mat", "a bank of the river"]


def openai_embeds(url):
    import openai

    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        assert MODEL in [one.id for one in client.models.list().data]
        reply = client.embeddings.create(model=MODEL, input=TEXTS)
        return [np.array(one.embedding, np.float32) for one in reply.data]


def triton_infers(url):
    import tritonclient.http as triton

    client = triton.InferenceServerClient(url.removeprefix("http://"))
    assert client.is_server_live()
    assert client.is_model_ready(MODEL)
    x = np.random.default_rng(0).standard_normal((500, 64), dtype=np.float32)
    given = triton.InferInput("embeddings", list(x.shape), "FP32")
    given.set_data_from_numpy(x, binary_data=True)
    asked = [triton.InferRequestedOutput(name, binary_data=True) for name in ("z", "weights")]
    reply = client.infer(MODEL, [given], outputs=asked)
    return [reply.as_numpy("z"), reply.as_numpy("weights")]


if __name__ == "__main__":
    ray, one, case = sys.argv[1:]
    ask = {"openai": openai_embeds, "triton": triton_infers}[case]
    for by_ray, by_one in zip(ask(ray), ask(one), strict=True):
        assert by_ray.size
        assert by_ray.dtype == np.float32
        np.testing.assert_array_equal(by_ray, by_one)
