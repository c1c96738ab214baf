"""The Llama graph that ONNX Runtime GenAI runs, from a GGUF file and without PyTorch.

Operators of the domain com.microsoft:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from pathlib import Path
from typing import Any, BinaryIO

import gguf
import numpy as np
import onnx
from onnx import TensorProto, helper
from tqdm.auto import tqdm

from foundry_lab.engine.model import quantization as quant
from foundry_lab.engine.model.genai import MODEL_FILE
from foundry_lab.engine.model.quantization import BLOCK, Array

DATA_FILE = "model.onnx.data"
ALIGNMENT = 4096
"""Bytes; lets the runtime map the weights into memory instead of copying them."""
MICROSOFT = "com.microsoft"


def metadata(reader: gguf.GGUFReader, key: str) -> Any:
    """Return a value of the GGUF's metadata. Raises KeyError if there is none of that name."""
    return reader.fields[key].contents()


class Decoder:
    """Builds the graph; most methods add nodes and return the name of their output.

    Weights are appended to the data file, so that only one array at a time is in memory.
    """

    def __init__(self, reader: gguf.GGUFReader, file: BinaryIO) -> None:
        self.layers: int = metadata(reader, "llama.block_count")
        self.context_length: int = metadata(reader, "llama.context_length")
        self.vocab_size: int = metadata(reader, "llama.vocab_size")
        self.hidden_size: int = metadata(reader, "llama.embedding_length")
        self.feed_forward_size: int = metadata(reader, "llama.feed_forward_length")
        self.heads: int = metadata(reader, "llama.attention.head_count")
        self.kv_heads: int = metadata(reader, "llama.attention.head_count_kv")
        self.head_size = self.hidden_size // self.heads
        self.rope_base = metadata(reader, "llama.rope.freq_base")
        self.epsilon = metadata(reader, "llama.attention.layer_norm_rms_epsilon")
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self._file = file
        self._tensors = {tensor.name: tensor.data for tensor in reader.tensors}

    def build(self, *, progress: bool) -> onnx.ModelProto:
        self._constants()
        total, branch = self._embedding(), ""
        for i in tqdm(range(self.layers), desc="Converting the model", unit="layer", disable=not progress):
            x, total = self._norm(f"blk.{i}.attn_norm", total, branch)
            branch = self._attention(i, x)
            x, total = self._norm(f"blk.{i}.ffn_norm", total, branch)
            branch = self._feed_forward(i, x)
        x, _ = self._norm("output_norm", total, branch)
        self._head(x)
        return self._model()

    def add(self, name: str, array: Array) -> str:
        """Write the array and return its name; so do the next two."""
        self._file.write(b"\0" * (-self._file.tell() % ALIGNMENT))
        place = {"location": DATA_FILE, "offset": self._file.tell(), "length": array.nbytes}
        self._file.write(np.ascontiguousarray(array).data)
        tensor = TensorProto(
            name=name,
            dims=array.shape,
            data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
            data_location=TensorProto.EXTERNAL,
        )
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        self.initializers[name] = tensor
        return name

    def _integer(self, name: str, value: int) -> str:
        self.initializers[name] = helper.make_tensor(name, TensorProto.INT64, [1], [value])
        return name

    def _node(self, op: str, inputs: list[str], *outputs: str, domain: str = "", **attributes: Any) -> str:
        name = f"{outputs[0]}/{op}"
        self.nodes.append(helper.make_node(op, inputs, outputs, name, domain=domain, **attributes))
        return outputs[0]

    def _constants(self) -> None:
        """Rotary caches, sums of blocks, and the lengths GroupQueryAttention reads off the mask."""
        exponents = np.arange(0, self.head_size, 2) / self.head_size
        angles = np.outer(np.arange(self.context_length), self.rope_base**-exponents)
        self.add("cos", np.cos(angles).astype(np.float32))
        self.add("sin", np.sin(angles).astype(np.float32))
        for columns in (self.hidden_size, self.feed_forward_size):
            self.add(f"block_sums.{columns}", quant.block_sums(columns))
        one = self._integer("one", 1)
        tokens = self._node("ReduceSum", ["attention_mask", one], "mask.tokens", keepdims=0)
        last = self._node("Sub", [tokens, one], "mask.last")
        self._node("Cast", [last], "past_lengths", to=TensorProto.INT32)
        shape = self._node("Shape", ["attention_mask"], "mask.shape", start=1, end=2)
        length = self._node("Squeeze", [shape], "mask.length")
        self._node("Cast", [length], "total_length", to=TensorProto.INT32)

    def _matrix(self, name: str, weights: Array, scales: Array, zero_points: Array) -> list[str]:
        """Write a quantized matrix and return the names of its parts."""
        parts = {"weight": weights, "scale": scales, "zero": zero_points}
        return [self.add(f"{name}.{part}", array) for part, array in parts.items()]

    def _embedding(self) -> str:
        """Look the tokens up in the table, which is also the matrix of the head."""
        table = quant.from_q8_0(self._tensors["token_embd.weight"])
        rows = table.weights.reshape(self.vocab_size, self.hidden_size)
        weight, scale, zero = self._matrix("embedding", rows, table.scales, table.zero_points)
        inputs = [weight, "input_ids", scale, zero]
        form = {"bits": 8, "block_size": BLOCK, "gather_axis": 0, "quantize_axis": 1}
        return self._node("GatherBlockQuantized", inputs, "embedding", domain=MICROSOFT, **form)

    def _head(self, x: str) -> str:
        """Logits of the last position alone: nobody reads the prompt's, and they'd take 200 kB a token."""
        rows, blocks = self.vocab_size, self.hidden_size // BLOCK
        last = self._node("Gather", [x, self._integer("last", -1)], "last_hidden", axis=1)
        matrix = TensorProto()  # the embedding's bytes, in another shape
        matrix.CopyFrom(self.initializers["embedding.weight"])
        matrix.name, matrix.dims[:] = "head.weight", (rows, blocks, BLOCK)
        self.initializers[matrix.name] = matrix
        parts = [matrix.name, "embedding.scale", "embedding.zero"]
        return self._multiply("logits", last, parts, (rows, blocks), bits=8)

    def _norm(self, name: str, x: str, branch: str) -> tuple[str, str]:
        """Return the normalized sum of x and branch, and the sum itself."""
        gamma = self.add(f"{name}.weight", self._tensors[f"{name}.weight"])
        if not branch:
            op, inputs = "SimplifiedLayerNormalization", [x, gamma]
            return self._node(op, inputs, name, axis=-1, epsilon=self.epsilon), x
        total = f"{name}.sum"
        op, inputs = "SkipSimplifiedLayerNormalization", [x, branch, gamma]
        return self._node(op, inputs, name, "", "", total, domain=MICROSOFT, epsilon=self.epsilon), total

    def _with_sums(self, x: str, columns: int) -> str:
        """Append to x the sums of its blocks, which `from_q4_1` matrices take."""
        sums = self._node("MatMul", [x, f"block_sums.{columns}"], f"{x}.sums")
        return self._node("Concat", [x, sums], f"{x}.with_sums", axis=-1)

    def _matmul(self, name: str, x: str) -> str:
        matrix = quant.from_q4_1(self._tensors.pop(f"{name}.weight"))
        weights, zero_points = quant.pack_nibbles(matrix.weights), quant.pack_nibbles(matrix.zero_points)
        parts = self._matrix(name, weights, matrix.scales, zero_points)
        return self._multiply(name, x, parts, matrix.scales.shape, bits=4)

    def _multiply(self, name: str, x: str, parts: list[str], shape: tuple[int, ...], bits: int) -> str:
        # accuracy_level 4 multiplies in int8; the others unpack the weights to float, many times slower.
        rows, blocks = shape
        form = {"N": rows, "K": blocks * BLOCK, "bits": bits, "block_size": BLOCK, "accuracy_level": 4}
        return self._node("MatMulNBits", [x, *parts], name, domain=MICROSOFT, **form)

    def _attention(self, i: int, x: str) -> str:
        layer = f"blk.{i}"
        q, k, v = (self._tensors[f"{layer}.attn_{part}.weight"] for part in "qkv")
        rows = [quant.unpermute(q, self.heads), quant.unpermute(k, self.kv_heads), v]
        self._tensors[f"{layer}.qkv.weight"] = np.concatenate(rows)
        qkv = self._matmul(f"{layer}.qkv", self._with_sums(x, self.hidden_size))
        past = [f"past_key_values.{i}.key", f"past_key_values.{i}.value"]
        inputs = [qkv, "", "", *past, "past_lengths", "total_length", "cos", "sin"]
        outputs = [f"{layer}.attention", f"present.{i}.key", f"present.{i}.value"]
        heads = {"num_heads": self.heads, "kv_num_heads": self.kv_heads}
        how = {"scale": self.head_size**-0.5, "do_rotary": 1, **heads}
        mixed = self._node("GroupQueryAttention", inputs, *outputs, domain=MICROSOFT, **how)
        return self._matmul(f"{layer}.attn_output", self._with_sums(mixed, self.hidden_size))

    def _feed_forward(self, i: int, x: str) -> str:
        name = f"blk.{i}.ffn"
        x = self._with_sums(x, self.hidden_size)
        gate = self._matmul(f"{name}_gate", x)
        up = self._matmul(f"{name}_up", x)
        # With alpha 1, QuickGelu is x * sigmoid(x), Llama's SiLU.
        silu = self._node("QuickGelu", [gate], f"{name}_silu", domain=MICROSOFT, alpha=1.0)
        gated = self._node("Mul", [silu, up], f"{name}_gated")
        return self._matmul(f"{name}_down", self._with_sums(gated, self.feed_forward_size))

    def _model(self) -> onnx.ModelProto:
        tensor = helper.make_tensor_value_info

        def cache(prefix: str, length: str) -> list[onnx.ValueInfoProto]:
            shape = ("batch", self.kv_heads, length, self.head_size)
            names = [f"{prefix}.{i}.{part}" for i in range(self.layers) for part in ("key", "value")]
            return [tensor(name, TensorProto.FLOAT, shape) for name in names]

        inputs = [
            tensor("input_ids", TensorProto.INT64, ("batch", "sequence")),
            tensor("attention_mask", TensorProto.INT64, ("batch", "total")),
            *cache("past_key_values", "past"),
        ]
        logits = tensor("logits", TensorProto.FLOAT, ("batch", 1, self.vocab_size))
        outputs = [logits, *cache("present", "total")]
        initializers = list(self.initializers.values())
        graph = helper.make_graph(self.nodes, "llama", inputs, outputs, initializers)
        opsets = [helper.make_opsetid("", 22), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, producer_name="foundry-lab", ir_version=10)


def write_model(reader: gguf.GGUFReader, directory: Path, *, progress: bool = False) -> None:
    """Write model.onnx and model.onnx.data of a Llama whose matrices are Q4_1 and whose embedding is Q8_0.

    Args:
        reader: the opened GGUF file.
        directory: where to; must exist.
        progress: show a bar, one step a layer.

    Raises:
        OSError: the disk is full or not writable.
    """
    with (directory / DATA_FILE).open("wb") as file:
        model = Decoder(reader, file).build(progress=progress)
    (directory / MODEL_FILE).write_bytes(model.SerializeToString())
