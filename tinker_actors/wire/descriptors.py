"""The protobuf messages of the API, declared as data and built on first use.

Numbers, names and types are the public schema `tinker_public` (proto3) of the official SDK 0.38. The
classes live in a pool of their own, so that they never meet the SDK's in the same process.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import DescriptorProto

__all__ = ["message_class"]

_PACKAGE = "tinker_public"

_ENUMS = {
    "StopReason": ["STOP_REASON_STOP", "STOP_REASON_LENGTH"],
    "DType": ["DTYPE_UNSPECIFIED", "DTYPE_FLOAT32", "DTYPE_INT64", "DTYPE_INT32", "DTYPE_BFLOAT16"],
}

# One line a message: "number name type", with "repeated", "optional", "oneof <group>" or "map<key>" in front.
_MESSAGES = {
    "ForwardBackwardRequest": """
        1 model_id string; 2 seq_id int32; 3 data repeated Datum; 4 loss_fn string;
        5 loss_fn_config map double; 6 forward_only bool; 7 loss_fn_config_v2 map LossConfigValue""",
    "LossConfigValue": "1 number oneof:value double; 2 text oneof:value string",
    "Datum": """
        1 model_input repeated Chunk; 2 loss_fn_inputs map Tensor;
        3 model_input_spans repeated ProvenanceSpan; 4 loss_fn_input_spans repeated ProvenanceSpan""",
    "Chunk": "1 encoded_text oneof:chunk EncodedTextChunk; 2 image oneof:chunk ImageChunk; 3 dmel oneof:chunk DmelChunk",
    "EncodedTextChunk": "1 tokens bytes",
    "ImageChunk": """
        1 data bytes; 2 format string; 3 expected_tokens optional int32;
        4 override_dimensions optional ImageDimensions""",
    "ImageDimensions": "1 width uint32; 2 height uint32",
    "DmelChunk": "1 dmel bytes",
    "Tensor": "1 dense oneof:encoding bytes; 2 sparse_csr oneof:encoding SparseCsr; 3 dtype DType; 4 shape repeated int64",
    "SparseCsr": "1 values bytes; 2 crow_indices bytes; 3 col_indices bytes",
    "ProvenanceSpan": "1 prompt_tokens oneof:span TokenSpan; 2 sampled_tokens oneof:span TokenSpan",
    "TokenSpan": "1 sequence_id string; 2 offset int64; 3 length int64",
    "ForwardBackwardOutput": """
        1 loss_fn_output_type string; 2 loss_fn_outputs repeated ArrayRecord; 3 metrics map double""",
    "ArrayRecord": "1 type_tag string; 2 fields map BatchedTensor; 3 num_datums int64",
    "BatchedTensor": "1 data bytes; 2 offsets bytes; 3 dtype DType; 4 trailing_shape repeated int64",
    "SampleResponse": """
        1 sequences repeated SampledSequence; 2 prompt_logprobs optional bytes;
        3 topk_prompt_logprobs optional TopkLogprobs; 4 prompt_cache_hit_tokens int32;
        5 target_prompt_logprobs optional Tensor; 6 prompt_alt_tokens optional PromptAltTokens""",
    "SampledSequence": """
        1 stop_reason StopReason; 2 tokens bytes; 3 logprobs optional bytes;
        4 topk_sampled_logprobs optional TopkLogprobs""",
    "TopkLogprobs": "1 token_ids bytes; 2 logprobs bytes; 3 k uint32; 4 length uint32",
    "PromptAltTokens": "1 tokens Tensor; 2 logprobs Tensor",
}


def _fill(message: "DescriptorProto", name: str, fields: str) -> None:
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto

    kinds = {
        k: getattr(FieldDescriptorProto, f"TYPE_{k.upper()}")
        for k in ("string", "bytes", "bool", "double", "int32", "int64", "uint32")
    }
    message.name = name
    groups: dict[str, int] = {}
    presence: list[Any] = []
    for line in fields.split(";"):
        number, field_name, *labels, kind = line.split()
        label = labels[0] if labels else ""
        field = message.field.add(name=field_name, number=int(number))
        repeated = label in ("repeated", "map")
        field.label = FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL
        if label == "map":
            entry = message.nested_type.add()
            entry_name = "".join(part.capitalize() for part in field_name.split("_")) + "Entry"
            _fill(entry, entry_name, f"1 key string; 2 value {kind}")
            entry.options.map_entry = True
            field.type = FieldDescriptorProto.TYPE_MESSAGE
            field.type_name = f".{_PACKAGE}.{name}.{entry_name}"
        elif kind in kinds:
            field.type = kinds[kind]
        else:
            field.type = (
                FieldDescriptorProto.TYPE_ENUM if kind in _ENUMS else FieldDescriptorProto.TYPE_MESSAGE
            )
            field.type_name = f".{_PACKAGE}.{kind}"
        if label.startswith("oneof:"):
            group = label.removeprefix("oneof:")
            if group not in groups:
                groups[group] = len(message.oneof_decl)
                message.oneof_decl.add(name=group)
            field.oneof_index = groups[group]
        if label == "optional":
            field.proto3_optional = True
            presence.append(field)
    for field in presence:  # the synthetic oneofs of optional fields must stand last
        field.oneof_index = len(message.oneof_decl)
        message.oneof_decl.add(name=f"_{field.name}")


@cache
def _pool() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool

    file = descriptor_pb2.FileDescriptorProto(
        name="tinker_actors/wire.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, values in _ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    for name, fields in _MESSAGES.items():
        _fill(file.message_type.add(), name, fields)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


@cache
def message_class(name: str) -> Any:
    """The class of the protobuf message `name`, such as "ForwardBackwardRequest"."""
    from google.protobuf import message_factory

    descriptor = _pool().FindMessageTypeByName(f"{_PACKAGE}.{name}")
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    factory: Any = message_factory.MessageFactory(_pool())  # protobuf 4.21
    return factory.GetPrototype(descriptor)
