"""What Flower's SecAgg+ costs for the same rows as benchmarks/secagg.py: its own workflow and client mod, in one process.

    python -m venv .venv-peers && .venv-peers/bin/pip install flwr
    .venv-peers/bin/python benchmarks/secagg_flower.py 16,1000000,5,0

Run by an interpreter that has Flower and not by ours: its pinned versions are not ours. Prints one JSON object a row. A site's CPU
is all that its mod does in the four stages, quantisation included, with the training replaced by constant weights; the server's is
what is left of the process time. Bytes up are those of the arrays and records in a site's replies, before Flower's own envelope.
"""

from __future__ import annotations

import copy
import importlib
import json
import logging
import sys
import time
from statistics import median
from types import SimpleNamespace
from typing import Any

import flwr
import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.common import Code, FitIns, FitRes, Status, ndarrays_to_parameters
from flwr.server.workflow.secure_aggregation import secaggplus_workflow as workflow
from flwr.supercore.task_identity import TaskIdentity

THRESHOLD = 2 / 3
LAST_SHARED_STAGE = 2
"""Setup and key sharing are stages 0 and 1; sites that drop out do not answer from here on."""


def measure(sites: int, parameters: int, dropped: int) -> dict[str, Any]:
    """One row."""
    mod = importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 0
    weights = np.full(parameters, 0.01, np.float32)
    contexts = {node: _site_context(node) for node in range(1, sites + 1)}
    lost = {1 + index * sites // dropped for index in range(dropped)} if dropped else set()
    meter: dict[str, Any] = {"stage": -1, "errors": [], "copying": 0.0}
    meter |= {"cpu": dict.fromkeys(contexts, 0.0), "bytes": dict.fromkeys(contexts, 0)}

    def answer(message: Message, node: int) -> Message | None:
        def train(inner: Message, _context: Context) -> Message:
            result = FitRes(status=Status(Code.OK, ""), parameters=ndarrays_to_parameters([weights]), num_examples=1, metrics={})
            return Message(mod.compat.fitres_to_recorddict(result, keep_input=False), reply_to=inner)

        start = time.process_time()
        try:
            reply = mod.secaggplus_mod(message, contexts[node], train)
        except Exception as error:  # noqa: BLE001 - a peer's failure is a result
            meter["errors"].append(f"stage {meter['stage']}, site {node}: {type(error).__name__}: {error}"[:200])
            return None
        meter["cpu"][node] += time.process_time() - start
        meter["bytes"][node] += _size(reply.content)
        reply.metadata.__dict__["_src_node_id"] = node
        return reply

    class Grid:
        def send_and_receive(self, messages: Any, timeout: float | None = None) -> list[Message]:  # noqa: ARG002 - Flower's name
            meter["stage"] += 1
            replies = []
            for original in messages:
                # What a network would do; on nobody's account.
                begun = time.process_time()
                message = copy.deepcopy(original)
                meter["copying"] += time.process_time() - begun
                node = message.metadata.dst_node_id
                if node in lost and meter["stage"] >= LAST_SHARED_STAGE:
                    continue
                message.metadata.__dict__.update(_run_id=1, _src_node_id=0, _message_id=f"{meter['stage']}-{node}")
                reply = answer(message, node)
                if reply is not None:
                    replies.append(reply)
            return replies

    outcome: dict[str, Any] = {}

    class Strategy:
        def configure_fit(self, _round: int, start: Any, _clients: Any) -> list[Any]:
            return [(SimpleNamespace(node_id=node), FitIns(start, {})) for node in contexts]

        def aggregate_fit(self, _round: int, results: Any, _failures: Any) -> tuple[Any, dict[str, Any]]:
            outcome["mean"] = flwr.common.parameters_to_ndarrays(results[0][1].parameters)[0]
            return results[0][1].parameters, {}

    start = time.process_time()
    workflow.SecAggPlusWorkflow(num_shares=1.0, reconstruction_threshold=THRESHOLD, max_weight=1.0, timeout=1)(
        Grid(), _server_context(Strategy(), sites, parameters)
    )
    total = time.process_time() - start
    survivors = [node for node in contexts if node not in lost]
    return {
        "sites": sites,
        "parameters": parameters,
        "dropped": dropped,
        "version": flwr.__version__ if hasattr(flwr, "__version__") else "",
        "site_cpu_s": median(meter["cpu"][node] for node in survivors),
        "server_cpu_s": total - meter["copying"] - sum(meter["cpu"].values()),
        "bytes_up": max(meter["bytes"].values()),
        "largest_error": float(np.abs(outcome["mean"] - weights).max()) if "mean" in outcome else None,
        "errors": meter["errors"][:3],
    }


def _site_context(node: int) -> Context:
    return Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})


def _server_context(strategy: Any, sites: int, parameters: int) -> Any:
    state = RecordDict()
    state[workflow.MAIN_CONFIGS_RECORD] = ConfigRecord({workflow.WorkflowKey.CURRENT_ROUND: 1})
    empty = ndarrays_to_parameters([np.zeros(parameters, np.float32)])
    state[workflow.MAIN_PARAMS_RECORD] = workflow.compat.parameters_to_arrayrecord(empty, keep_input=True)
    context = workflow.LegacyContext.__new__(workflow.LegacyContext)
    context.__dict__.update(
        run_id=1,
        node_id=0,
        node_config={},
        state=state,
        run_config={},
        strategy=strategy,
        client_manager=SimpleNamespace(num_available=lambda: sites),
        history=SimpleNamespace(add_metrics_distributed_fit=lambda **_: None),
    )
    return context


def _size(content: RecordDict) -> int:
    arrays = sum(len(array.data) for record in content.array_records.values() for array in record.values())
    return arrays + sum(_value_size(value) for record in content.config_records.values() for value in record.values())


def _value_size(value: Any) -> int:
    if isinstance(value, bytes | str):
        return len(value)
    if isinstance(value, list):
        return sum(_value_size(one) for one in value)
    return 8


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    for row in sys.argv[1:]:
        print(json.dumps(measure(*(int(part) for part in row.split(",")[:3]))), flush=True)
