"""mteb's own wrapper of OpenAI's API, unmodified, on a text of 600 tokens: the server is to cut it.

    python mteb_client.py URL

The wrapper counts tokens by an encoding of tiktoken, whose files are on the net: here it counts bytes.
"""

import os
import sys

os.environ |= {"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}

import numpy as np
import openai
import tiktoken
from mteb.models.model_implementations.openai_models import OpenAIModel
from text_clients import LONG, TEXTS, agree, plain
from tiktoken import registry

if __name__ == "__main__":
    url = sys.argv[1]
    tiktoken.list_encoding_names()  # fills the registry
    assert registry.ENCODING_CONSTRUCTORS is not None
    ranks = {bytes([byte]): byte for byte in range(256)}
    registry.ENCODING_CONSTRUCTORS["bytes"] = lambda: {
        "name": "bytes",
        "pat_str": r"[\s\S]",
        "mergeable_ranks": ranks,
        "special_tokens": {},
    }
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    model = OpenAIModel("minilm", max_tokens=8191, tokenizer_name="bytes", embed_dim=384, client=client)
    texts = [*TEXTS, " ", LONG]
    found = model.encode([{"text": texts}], task_metadata=None, hf_split="test", hf_subset="default")
    assert not np.any(found[3]), "the wrapper itself gives zeros for a text that is empty"
    agree(found[[0, 1, 2, 4]], plain(url, [*TEXTS, LONG], truncate=True))
