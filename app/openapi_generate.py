"""What the OpenAPI document says of /generate."""

from __future__ import annotations

from typing import Any

SUMMARY = "Generate step by step: every next input is made from the last output"
DESCRIPTION = (
    "Goes through what each row begins with, as POST /run does, and then on by itself for up to `max_steps` steps. A "
    "model that embeds token ids and ends in a distribution over them chooses a token each step, the likeliest or one "
    "that is drawn (`temperature`, `top_k`, `top_p`, `seed`), and reads it next. A model of numbers reads its own "
    'predictions, beside whatever is known of the `future`; or, with `"feed": "constant"`, the same inputs again '
    "and again. `num_samples` rows begin with each prompt. What a row generates does not depend on the other rows, nor "
    "on load: its steps are computed together with those of all other requests. To go on from an answer, post its "
    "`state` as `initial_state`, and what each row put out last as `inputs`.\n\n"
    'With `"stream": true`, or Accept: text/event-stream, the answer is server-sent events: `step` for each step as '
    "it is computed, then `done` with the whole answer, or `error` with a problem."
)

EXAMPLES: dict[str, Any] = {
    "forecast": {
        "summary": "A forecast of 4 steps, of a net that predicts what it reads",
        "value": {"cell": "gru", "num_units": 2, "inputs": [[[0.1, 0.2], [0.3, 0.1]]], "horizon": 4},
    },
    "known": {
        "summary": "The first feature is predicted, the second is known of the steps to come",
        "value": {
            "cell": "lstm",
            "num_units": 3,
            "readout": {"kernel": [[1], [-1], [0.5]]},
            "inputs": [[[0.1, 1], [0.3, 0]]],
            "horizon": 3,
            "future": [[[1], [0]]],
            "return": ["predictions", "state"],
        },
    },
    "characters": {
        "summary": "Tokens as features of which one is 1, drawn from a softmax, three samples",
        "value": {
            "cell": "rnn",
            "num_units": 2,
            "readout": {"kernel": [[1, 0, -1], [0, 1, 1]], "activation": "softmax"},
            "inputs": [[[1, 0, 0]]],
            "feed": "one_hot",
            "max_steps": 5,
            "temperature": 0.8,
            "seed": 7,
            "num_samples": 3,
        },
    },
    "one_to_many": {
        "summary": "One vector, read again at each of 3 steps",
        "value": {"cell": "gru", "num_units": 2, "inputs": [[[1, 0, 0]]], "feed": "constant", "max_steps": 3},
    },
}

MODEL_EXAMPLES: dict[str, Any] = {
    "greedy": {
        "summary": "The likeliest token after the other, for a model that embeds and has a softmax readout",
        "value": {"inputs": [[4, 8, 15], [16]], "max_steps": 6, "stop": 2},
    },
    "sampled": {
        "summary": "Two samples, with the log-probabilities of their tokens",
        "value": {
            "inputs": [[4]],
            "max_steps": 5,
            "temperature": 0.8,
            "top_k": 5,
            "top_p": 0.9,
            "seed": 1,
            "num_samples": 2,
            "return": ["tokens", "log_probabilities"],
        },
    },
}

#: The answer that comes step by step.
EVENTS: dict[str, Any] = {
    "text/event-stream": {
        "schema": {
            "type": "string",
            "description": "the data of a `step`; that of `done` is the whole answer, that of `error` a problem",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/GenerateStep"},
        },
        "example": 'event: step\ndata: {"step":0,"rows":[0],"tokens":[5]}\n\nevent: done\ndata: {"lengths":[1],…}\n\n',
    }
}
