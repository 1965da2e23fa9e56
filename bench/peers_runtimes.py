# SPDX-License-Identifier: Apache-2.0
"""Attention of PyTorch and ONNX Runtime."""

import numpy as np

from peers_common import Peer, Unavailable, need_memory

# ---- PyTorch --------------------------------------------------------------------------------


class Torch(Peer):
    """scaled_dot_product_attention on [1, heads, n, d].  It takes no output; once warm, the C
    library's allocator hands it the same pages again."""

    def __init__(self, dtype, threads):
        try:
            import torch
        except ImportError as error:
            raise Unavailable(str(error)) from None
        self._torch, self.dtype, self.name = torch, dtype, f"torch {dtype}"
        torch.set_num_threads(threads)

    def takes(self, case):
        return case.dtype == "bf16" or self.dtype == "f32"

    def version(self):
        return f"{self._torch.__version__} ({self._torch.backends.cpu.get_cpu_capability()})"

    def prepare(self, case, inputs):
        torch = self._torch
        dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[self.dtype]
        self._qkv = [torch.from_numpy(x)[None].to(dtype) for x in inputs.tensors]
        self._options = {"is_causal": case.causal, "enable_gqa": case.heads != case.kv_heads}
        choice = torch._fused_sdp_choice(*self._qkv, **self._options)
        self.path = torch.nn.attention.SDPBackend(choice).name.lower().replace("_attention", "")

    def run(self):
        with self._torch.inference_mode():
            self._out = self._torch.nn.functional.scaled_dot_product_attention(
                *self._qkv, **self._options
            )

    def result(self):
        return self._out[0].float().numpy()

    def close(self):
        self._qkv = self._out = None


# ---- ONNX Runtime ---------------------------------------------------------------------------


class Onnx(Peer):
    """A model of one com.microsoft operator, on [1, n, heads * d], with bound inputs and output."""

    operator = ""

    def __init__(self, threads):
        try:
            import onnx
            import onnxruntime
        except ImportError as error:
            raise Unavailable(str(error)) from None
        self._onnx, self._runtime = onnx, onnxruntime
        self._options = onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = threads
        self._options.inter_op_num_threads = 1
        self._options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._options.log_severity_level = 4  # its exceptions have the text too

    def version(self):
        return self._runtime.__version__

    def attributes(self, case):
        """Attributes of the node, beside num_heads and scale."""
        raise NotImplementedError

    def extra_inputs(self, case):
        """Inputs after query, key and value: (name, array), or None where one is left out."""
        return []

    def outputs(self, case):
        """(name, shape) of each; the first is the result."""
        return [("output", [1, case.n, case.heads * case.d])]

    def _model(self, case, feeds):
        helper = self._onnx.helper
        names = ["" if feed is None else feed[0] for feed in feeds]
        node = helper.make_node(
            self.operator, names, [name for name, _ in self.outputs(case)], domain="com.microsoft",
            num_heads=case.heads, scale=case.scale, **self.attributes(case),
        )
        inputs = [
            helper.make_tensor_value_info(
                feed[0], helper.np_dtype_to_tensor_dtype(feed[1].dtype), feed[1].shape
            )
            for feed in feeds
            if feed is not None
        ]
        float32 = self._onnx.TensorProto.FLOAT
        outputs = [
            helper.make_tensor_value_info(name, float32, shape)
            for name, shape in self.outputs(case)
        ]
        graph = helper.make_graph([node], "attention", inputs, outputs)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        # An intermediate format that every runtime of the last years reads.
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)

    def prepare(self, case, inputs):
        feeds = [
            (name, np.ascontiguousarray(x.transpose(1, 0, 2)).reshape(1, case.n, -1))
            for name, x in zip(("query", "key", "value"), inputs.tensors)
        ]
        feeds += self.extra_inputs(case)
        model = self._model(case, feeds).SerializeToString()
        self._feeds, self._case = feeds, case  # bound values share the arrays' memory
        try:
            self._session = self._runtime.InferenceSession(
                model, self._options, providers=["CPUExecutionProvider"]
            )
            self._bind()
            self.run()  # it checks some rules only here
        except Exception as error:  # noqa: BLE001 (its exceptions share no base class)
            raise Unavailable(" ".join(str(error).split())) from None

    def _bind(self):
        value = self._runtime.OrtValue
        self._binding = self._session.io_binding()
        for feed in self._feeds:
            if feed is not None:
                self._binding.bind_ortvalue_input(feed[0], value.ortvalue_from_numpy(feed[1]))
        self._out = []
        for name, shape in self.outputs(self._case):
            self._out.append(value.ortvalue_from_shape_and_type(shape, np.float32))
            self._binding.bind_ortvalue_output(name, self._out[-1])

    def run(self):
        self._session.run_with_iobinding(self._binding)

    def result(self):
        rows = self._out[0].numpy().reshape(self._case.n, self._case.heads, self._case.d)
        return rows.transpose(1, 0, 2)

    def close(self):
        self._session = self._binding = self._out = self._feeds = None


class OnnxMultiHead(Onnx):
    name = "onnxruntime mha"
    operator = "MultiHeadAttention"

    def attributes(self, case):
        return {"unidirectional": int(case.causal)}

    def prepare(self, case, inputs):
        if case.heads != case.kv_heads:
            raise Unavailable("MultiHeadAttention has no grouped heads")
        if case.causal:  # then it holds all scores
            need_memory(4 * case.n**2 * case.heads)
        super().prepare(case, inputs)


class OnnxGroupQuery(Onnx):
    name = "onnxruntime gqa"
    operator = "GroupQueryAttention"

    def takes(self, case):
        """Without a mask it has no flash path, so MultiHeadAttention is the one to compare with,
        which has no grouped heads."""
        return case.dtype == "f32" and (case.causal or case.heads != case.kv_heads)

    def attributes(self, case):
        # The attribute is younger than the operator, and causal its default.
        return {"kv_num_heads": case.kv_heads, **({} if case.causal else {"causal": 0})}

    def extra_inputs(self, case):
        last, total = np.array([case.n - 1], np.int32), np.array(case.n, np.int32)
        return [None, None, ("seqlens_k", last), ("total_sequence_length", total)]

    def outputs(self, case):
        """It copies keys and values into a cache, and takes its flash path only if it has one."""
        cache = [1, case.kv_heads, case.n, case.d]
        return [*super().outputs(case), ("present_key", cache), ("present_value", cache)]
