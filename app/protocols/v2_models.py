"""What the Open Inference Protocol v2 tells of the server and its models, and Triton's model configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app import __version__
from app.compression import Folded
from app.problems import Problem
from app.protocols import text
from app.protocols.tensors import Tensor, backward_layer, inputs_of, outputs_of
from app.registry.models import Version
from app.schemas import plain
from app.settings import Settings
from rnn_engine import Network
from rnn_engine.errors import nearest, shown

EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]
OF_SEQUENCES = ["sequence", "sequence(string_id)"]
PLATFORM = "unrolled"

#: Of a body of the model repository's calls, which bring no files.
MOST_BYTES = 64 << 10
#: What they have, and how that looks.
REPOSITORY_FIELDS: dict[str, tuple[type[Any], str]] = {
    "ready": (bool, '{"ready": true}'),
    "parameters": (dict, '{"parameters": {}}'),
}


def server(*, keeps_sequences: bool) -> dict[str, Any]:
    """The server's metadata: only extensions that are there."""
    extensions = [*EXTENSIONS, *(OF_SEQUENCES if keeps_sequences else [])]
    return {"name": "unrolled", "version": __version__, "extensions": extensions}


def metadata(version: Version, versions: Sequence[Version]) -> dict[str, Any]:
    """A model's, with all versions of it that are served."""
    net = version.network()
    return {
        "name": version.name,
        "versions": [str(one.number) for one in versions],
        "platform": PLATFORM,
        "inputs": [_told(tensor) for tensor in inputs_of(net)],
        "outputs": [_told(tensor) for tensor in outputs_of(net)],
    }


def _told(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def config(version: Version, settings: Settings) -> dict[str, Any]:
    """The configuration, complete with defaults as Triton's is. Sizes are those of a row, without the batch axis."""
    net = version.network()
    return {
        "name": version.name,
        "platform": PLATFORM,
        "backend": PLATFORM,
        "runtime": "",
        "version_policy": {"all": {}},
        "max_batch_size": settings.max_batch,
        "input": [
            _configured(tensor)
            | {
                "format": "FORMAT_NONE",
                "is_shape_tensor": False,
                "allow_ragged_batch": False,
                "optional": tensor.optional,
                "is_non_linear_format_io": False,
            }
            for tensor in inputs_of(net)
        ],
        "output": [
            _configured(tensor) | {"label_filename": "", "is_shape_tensor": False, "is_non_linear_format_io": False}
            for tensor in outputs_of(net)
        ],
        "batch_input": [],
        "batch_output": [],
        "optimization": {
            "priority": "PRIORITY_DEFAULT",
            "input_pinned_memory": {"enable": False},
            "output_pinned_memory": {"enable": False},
            "gather_kernel_buffer_threshold": 0,
            "eager_batching": False,
        },
        **_scheduling(net, settings),
        "instance_group": [
            {
                "name": version.name,
                "kind": "KIND_CPU",
                "count": 1,
                "gpus": [],
                "secondary_devices": [],
                "profile": [],
                "passive": False,
                "host_policy": "",
            }
        ],
        "default_model_filename": "",
        "cc_model_filenames": {},
        "metric_tags": {},
        "parameters": {},
        "model_warmup": [],
        "model_transaction_policy": {"decoupled": False},
    }


def _scheduling(net: Network, settings: Settings) -> dict[str, Any]:
    """How requests are batched, of which Triton knows one way a model: by sequences, where it can have them."""
    if not settings.max_sequences or backward_layer(net) is not None:
        return {
            "dynamic_batching": {
                "preferred_batch_size": [],
                "max_queue_delay_microseconds": 0,
                "preserve_ordering": False,
                "priority_levels": 0,
                "default_priority_level": 0,
                "priority_queue_policy": {},
            }
        }
    kept = [
        {
            "input_name": tensor.name,
            "output_name": tensor.name.removeprefix("initial_"),
            "data_type": f"TYPE_{tensor.datatype}",
            "dims": list(tensor.shape[1:]),
            "initial_state": [],
            "use_same_buffer_for_input_output": False,
            "use_growable_memory": False,
        }
        for tensor in inputs_of(net)
        if tensor.name.startswith("initial_state.")
    ]
    return {
        "sequence_batching": {
            "oldest": {
                "max_candidate_sequences": settings.max_sequences,
                "preferred_batch_size": [],
                "max_queue_delay_microseconds": 0,
                "preserve_ordering": False,
            },
            "max_sequence_idle_microseconds": settings.sequence_idle_seconds * 1_000_000,
            "control_input": [],
            "state": kept,
            "iterative_sequence": False,
        }
    }


def _configured(tensor: Tensor) -> dict[str, Any]:
    row = list(tensor.shape[1:])
    found: dict[str, Any] = {"name": tensor.name, "data_type": f"TYPE_{tensor.datatype}", "dims": row or [1]}
    return found if row else found | {"reshape": {"shape": []}}  # a row is one number, and dims cannot be empty


def repository_field(body: bytes | Folded, field: str) -> Any:
    """The only field of a call to the model repository, whose body may be empty. Raises a 413 for a large one."""
    if isinstance(body, Folded) or len(body) > MOST_BYTES:
        raise Problem(413, f"the body has {len(body)} bytes, over the {MOST_BYTES} of a call to the model repository")
    kind, example = REPOSITORY_FIELDS[field]
    value = plain(text.read(body, [field], example).get(field)) if body.strip() else None
    if value is not None and not isinstance(value, kind):
        raise Problem(400, f"{field} is {shown(value)}: expected {example}", (field,))
    return kind() if value is None else value


def check_load(parameters: Mapping[str, Any]) -> None:
    """Raises a 403 where a request to load a model brings files of its own, a 400 for other parameters."""
    for name, value in parameters.items():
        if name.startswith("file:"):
            raise Problem(403, f"{shown(name)}: a model's files are not taken here, but by PUT /models/{{name}}")
        if name == "config" and value not in (None, "", "{}"):
            raise Problem(400, "config: a model's configuration follows from its files, and cannot be overridden")
        if name != "config":
            raise Problem(400, f"unknown parameter {shown(name)}: {nearest(name, ['config'])}")
