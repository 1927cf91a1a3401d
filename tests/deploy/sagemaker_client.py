"""What Triton's users do against SageMaker: its client makes the body and reads the reply; AWS carries them.

    python sagemaker_client.py URL

Runs in the environment that has tritonclient, unmodified, and nothing of Heed. Prints the vectors, as JSON.
"""

import json
import sys
import urllib.request

import numpy as np
import tritonclient.http as triton

KIND = "application/vnd.sagemaker-triton.binary+json;json-header-size="

given = triton.InferInput("text", [2], "BYTES")
given.set_data_from_numpy(np.array(["the bank of the river", "a loan"], dtype=object), binary_data=True)
wanted = [triton.InferRequestedOutput("pooled", binary_data=True)]
body, length = triton.InferenceServerClient.generate_request_body([given], outputs=wanted)
request = urllib.request.Request(sys.argv[1], data=body, headers={"Content-Type": f"{KIND}{length}"})
with urllib.request.urlopen(request, timeout=60) as reply:
    said = reply.headers["Content-Type"]
    assert said.startswith(KIND), said
    parsed = triton.InferenceServerClient.parse_response_body(
        reply.read(), header_length=int(said[len(KIND) :])
    )
print(json.dumps(parsed.as_numpy("pooled").tolist()))  # noqa: T201
