"""Another maker's encoder in process: `text_encoder.py <runtime> <kind> <model> <work folder> [quick]`.

runtime and kind: onnxruntime float32 or int8 (its dynamic quantization), openvino float32 or bfloat16,
ctranslate2 float32 or int8. Two threads either in one call, or in two calls side by side, batches of several
sizes, either graph of `bert_onnx`: what is fastest on some of these sentences is used (`quick`: two calls of
eight). Of the first of `sentences.json` in the work folder it makes `pooled.npy`, and says in a line of JSON
how it runs. It then reads numbers of seconds, a line each, and answers with the sentences a second that it
reached.
"""

import itertools
import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

THREADS = 2
SLICE = 128  # sentences in hand at a time, as Heed has of 8 connections × 16; they are sorted by length
WAYS = tuple(itertools.product((1, 2), (8, 16, 32)))  # calls side by side, sentences of one
QUICK = ((2, 8),)
TRY_TEXTS, TRY_SECONDS = 64, 0.4

Encode = Callable[[np.ndarray, np.ndarray], np.ndarray]  # ids and mask [B, T]: pooled [B, D]


def graph(folder: Path, work: Path, operators: str) -> Path:
    """Write the model's graph once, of `common` operators or `fused` ones; return the file."""
    import onnx
    from bert_onnx import bert

    file = work / f"{operators}.onnx"
    if not file.exists():
        onnx.save(bert(folder, fused=operators == "fused"), file)
    return file


def onnxruntime(folder: Path, work: Path, kind: str, calls: int, operators: str) -> Encode:
    """Run the graph; int8 as `quantize_dynamic` makes it."""
    import onnxruntime
    from onnx import TensorProto
    from onnxruntime.quantization import quantize_dynamic

    file = graph(folder, work, operators)
    if kind == "int8":
        float32 = {"DefaultTensorType": TensorProto.FLOAT}  # its own operators have no shapes to go by
        quantized = file.with_suffix(".int8.onnx")
        if not quantized.exists():
            quantize_dynamic(file, quantized, extra_options=float32)
        file = quantized
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS // calls
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda ids, mask: session.run(None, {"ids": ids, "mask": mask})[0]


def openvino(folder: Path, work: Path, kind: str, calls: int, operators: str) -> Encode:
    """Compile the graph; `kind` is the inference precision."""
    import openvino

    wanted = {"float32": "f32", "bfloat16": "bf16"}[kind]
    properties = {
        "INFERENCE_PRECISION_HINT": wanted,
        "INFERENCE_NUM_THREADS": THREADS,
        "NUM_STREAMS": calls,
    }
    compiled = openvino.Core().compile_model(graph(folder, work, operators), "CPU", properties)
    ran = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if ran != wanted:
        raise SystemExit(f"openvino runs {ran} where {wanted} was asked for")
    idle = [compiled.create_infer_request() for _ in range(calls)]

    def encode(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        request = idle.pop()
        try:
            return request.infer({"ids": ids, "mask": mask})[0].copy()
        finally:
            idle.append(request)

    return encode


def ctranslate2(folder: Path, work: Path, kind: str, calls: int, _: str) -> Encode:
    """Run its own form of the model; the mean over tokens is numpy's."""
    import ctranslate2
    from bert_ctranslate2 import convert

    made = work / "ctranslate2"
    if not made.exists():
        convert(folder, made)
    encoder = ctranslate2.Encoder(
        str(made), compute_type=kind, inter_threads=calls, intra_threads=THREADS // calls
    )

    def encode(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        lengths = mask.sum(1, dtype=np.int32)
        given = (
            ctranslate2.StorageView.from_array(ids.astype(np.int32)),
            ctranslate2.StorageView.from_array(lengths),
        )
        hidden = np.asarray(encoder.forward_batch(*given).last_hidden_state)
        mean = (hidden * mask[:, :, None].astype(np.float32)).sum(1) / lengths[:, None].astype(np.float32)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    return encode


# Each with the graphs that it may run.
RUNTIMES = {
    "onnxruntime": (onnxruntime, ("common", "fused")),
    "openvino": (openvino, ("common",)),
    "ctranslate2": (ctranslate2, ("its own",)),
}


class Encoder:
    """Texts to vectors: tokenized together, sorted by length, padded in batches, `calls` at a time."""

    def __init__(self, folder: Path, encode: Encode, calls: int) -> None:
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        most = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
        self.tokenizer.enable_truncation(most)
        self.tokenizer.no_padding()
        self.encode, self.calls = encode, calls
        self.pool = ThreadPoolExecutor(calls)

    def __call__(self, texts: Sequence[str], size: int) -> np.ndarray:
        """Return pooled [N, D] in the order of the texts."""
        ids = [one.ids for one in self.tokenizer.encode_batch(list(texts))]
        # The longest first, so that what is left at the end is short.
        order = sorted(range(len(ids)), key=lambda n: -len(ids[n]))
        groups = [order[at : at + size] for at in range(0, len(order), size)]

        def batch(group: list[int]) -> np.ndarray:
            longest = len(ids[group[0]])
            rows, mask = (np.zeros((len(group), longest), np.int64) for _ in range(2))
            for row, n in enumerate(group):
                rows[row, : len(ids[n])], mask[row, : len(ids[n])] = ids[n], 1
            return self.encode(rows, mask)

        made = np.concatenate(list((self.pool.map if self.calls > 1 else map)(batch, groups)))
        vectors = np.empty_like(made)
        vectors[order] = made
        return vectors


def rate(encoder: Encoder, texts: Sequence[str], size: int, seconds: float) -> float:
    """Return sentences a second over so many seconds, or of all sentences once."""
    done, begin = 0, time.perf_counter()
    for at in itertools.cycle(range(0, len(texts), SLICE)):
        done += len(encoder(texts[at : at + SLICE], size))
        over = time.perf_counter() - begin >= seconds
        if over if seconds else done >= len(texts):
            return done / (time.perf_counter() - begin)
    raise AssertionError("a cycle ends never")


def main() -> None:
    """Choose how to run, then encode as asked until the input ends."""
    runtime, kind, folder, work = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
    texts = json.loads((work / "sentences.json").read_text())
    few = texts[:TRY_TEXTS]
    run, graphs = RUNTIMES[runtime]
    encoders: dict[tuple[str, int], Encoder] = {}
    tried = {}
    for operators, (calls, size) in itertools.product(graphs, WAYS if len(sys.argv) == 5 else QUICK):
        if (operators, calls) not in encoders:
            made = run(folder, work, kind, calls, operators)
            encoders[operators, calls] = Encoder(folder, made, calls)
        rate(encoders[operators, calls], few, size, 0)  # so that every shape has been seen
        tried[operators, calls, size] = rate(encoders[operators, calls], few, size, TRY_SECONDS)
    operators, calls, size = max(tried, key=tried.__getitem__)
    encoder = encoders[operators, calls]
    encoders.clear()
    np.save(work / "pooled.npy", encoder(few, size))
    rate(encoder, texts, size, 0)
    print(json.dumps({"graph": operators, "calls": calls, "size": size}), flush=True)
    for line in sys.stdin:
        print(rate(encoder, texts, size, float(line)), flush=True)


if __name__ == "__main__":
    main()
